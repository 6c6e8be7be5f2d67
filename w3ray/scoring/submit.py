"""How is a finished evaluation of an unlabelled test split turned into the file that a challenge expects?"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from w3ray.errors import InputError
from w3ray.evaluation.submission import Supervision, epic_submission, something_submission
from w3ray.published_sets import PUBLISHED_SETS
from w3ray.scoring.clip_scores import ClipScores, heads_of, read_scores, require_no_prior
from w3ray.storage import write_bytes

FORMATS = ("epic-kitchens-55", "epic-kitchens-100", "something-something-v2", "something-something-v1", "jester")
_NAMES_SHOWN = 5
# The names that the EPIC-KITCHENS-55 server expects in the archive: one file for each test split.
_MEMBERS = {"test-s1": "seen.json", "test-s2": "unseen.json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What was written. `members` are the files in the zip archive; () if `out` is not an archive. `warnings` say why a
    server may reject it."""

    out: str
    format: str
    clips: int
    members: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_submission(
    directories: Sequence[str],
    format: str,
    out: str,
    *,
    supervision: Supervision | None = None,
) -> Submitted:
    """Write the submission file of a challenge.

    Args:
        directories: folders that `w3ray evaluate` wrote, one for each file. Several need an archive.
        format: one of `FORMATS`.
        out: a name that ends in `.zip` makes the archive to upload. It holds `seen.json` and `unseen.json` (the splits
            test-s1 and test-s2) for epic-kitchens-55, and `test.json` for epic-kitchens-100. Any other name is the
            file itself.

    Raises:
        InputError: no finished evaluation, another data set, a clip without scores, or `out` cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: unknown; known: {', '.join(FORMATS)}")
    archive = out.endswith(".zip")
    if archive and not format.startswith("epic-"):
        raise InputError(f"--out {out}: {format} expects a CSV file, not an archive; choose a name without .zip")
    if len(directories) > 1 and not archive:
        raise InputError(f"--out {out}: several evaluations need an archive; choose a name that ends in .zip")
    contents: dict[str, str] = {}
    clips = 0
    warnings = []
    for directory in directories:
        document, scores = read_scores(directory)
        member = _member(format, document, directory) if archive else ""
        if member in contents:
            raise InputError(f"{directory}: a second evaluation for {member}")
        contents[member] = _content(directory, document, scores, format, supervision)
        clips += len(scores.clip_ids)
        warnings += _warnings(directory, document.get("split"), len(scores.clip_ids), format)
    _write(out, _zipped(contents) if archive else contents[""].encode())
    return Submitted(
        out=out, format=format, clips=clips, members=tuple(contents) if archive else (), warnings=tuple(warnings)
    )


def _member(format: str, document: Mapping[str, Any], directory: str) -> str:
    if format == "epic-kitchens-100":
        return "test.json"
    split = document.get("split")
    if split not in _MEMBERS:
        raise InputError(f"{directory}: is of the split {split!r}; the challenge expects {' and '.join(_MEMBERS)}")
    return _MEMBERS[split]


def _warnings(directory: str, split: Any, clips: int, format: str) -> list[str]:
    wanted = PUBLISHED_SETS[format].challenge_clips
    if split not in wanted:
        return [f"{directory}: is of the split {split!r}; the challenge expects {' and '.join(wanted)}"]
    if clips != wanted[split]:
        return [f"{directory}: {clips} clips; the challenge expects all {wanted[split]} of {split}"]
    return []


def _content(
    directory: str, document: Mapping[str, Any], scores: ClipScores, format: str, supervision: Supervision | None
) -> str:
    _check_readable(directory, scores)
    require_no_prior(directory, document)
    scores_NS = np.asarray(scores.scores)
    try:
        heads = heads_of(document)
        if heads.multi_label:
            raise ValueError(f"its clips are multi-label, but {format} has clips with one class of each head")
        if format.startswith("epic-"):
            version: Literal["55", "100"] = "55" if format == "epic-kitchens-55" else "100"
            return json.dumps(epic_submission(scores.clip_ids, scores_NS, heads, version, supervision))
        form: Literal["numbers", "name"] = "numbers" if format == "something-something-v2" else "name"
        if heads.several:
            raise ValueError(f"{format} has one head, not {dict(heads.sizes)}")
        return something_submission(scores.clip_ids, scores_NS, heads.classes, form)
    except ValueError as error:
        raise InputError(f"{directory}: {error}") from error


def _check_readable(directory: str, scores: ClipScores) -> None:
    if not scores.reasons:
        return
    shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(scores.reasons.items())[:_NAMES_SHOWN])
    more = "; ..." if len(scores.reasons) > _NAMES_SHOWN else ""
    raise InputError(
        f"{directory}: {len(scores.reasons)} of {len(scores.clip_ids)} clips have no scores, but the challenge expects "
        f"scores of all clips: {shown}{more}; repair their videos and evaluate again"
    )


def _zipped(contents: Mapping[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return stream.getvalue()


def _write(out: str, content: bytes) -> None:
    try:
        write_bytes(Path(out).absolute(), content)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
