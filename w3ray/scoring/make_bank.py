"""How are the features of whole videos computed once, on the whole cluster? See `w3ray.data.bank` for the files.

    lengths of the videos -> a clip around each moment -> decoders -> the network -> one file for each video

A video's file is written when all its features are there. An interrupted bank continues with the first video that has
no file. Which clips go through the network together depends on the list of videos only, so the features are the same.
"""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from w3ray._redact import redacted
from w3ray.cluster.plan import ResourcePlan
from w3ray.data.bank import (
    BANK_NAME,
    FEATURES_FOLDER,
    LEDGER_NAME,
    LENGTHS_NAME,
    Bank,
    BankAbout,
    features_bytes,
    features_file,
    read_bank,
    video_key,
)
from w3ray.data.clip import ClipSpec
from w3ray.data.stream_spec import CLIP_TIMEOUT_S
from w3ray.data.video_cache import VideoCache
from w3ray.data.views import Protocol, parse_protocol
from w3ray.errors import InputError, RunError
from w3ray.plugins import NO_PLUGINS, Shipment
from w3ray.scoring.model_files import ModelFiles, description_of
from w3ray.scoring.score_clips import ScoredClips, clips_together, score_clips, score_clips_here
from w3ray.scoring.video_lengths import Lengths, video_lengths
from w3ray.storage import StoragePath, append_text, require_writable, write_bytes, write_json

_PROTOCOL = "1clip-center"


@dataclass(frozen=True, slots=True, kw_only=True)
class BankOrder:
    """Which bank is made, where, and how."""

    folder: StoragePath
    identity: str
    """Of everything that decides the features. A folder of another identity is refused."""
    files: ModelFiles
    about: BankAbout
    videos: Mapping[str, str]
    """Video as its manifest names it -> as it can be opened. The order is that of the work."""
    manifest: str = ""
    """Its fingerprint."""
    roots: tuple[str, ...] | None = None
    cache: VideoCache | None = None
    clip_timeout_s: float = CLIP_TIMEOUT_S
    plugins: Shipment = NO_PLUGINS
    max_failed_share: float = 0.01
    """Fail if more than this share of the videos cannot be read, or not as a whole."""
    here: bool = False
    """Compute in this process, without actors: inside a trial, which has no resources for them."""

    @property
    def spec(self) -> ClipSpec:
        return ClipSpec(**description_of(self.files).clip)


def make_bank(
    order: BankOrder,
    plan: ResourcePlan,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_failure: Callable[[str, str], None] = lambda video, reason: None,
) -> Bank:
    """Make a bank, or what is left of it.

    Args:
        order: which one.
        plan: its workers run the network.
        on_progress: called with the number of features done and of all features.
        on_failure: called with a video that cannot be read, or not as a whole, and the reason; also with those of an
            earlier call, which are not tried again.

    Raises:
        InputError: the folder holds another bank, or cannot be written.
        RunError: too many videos cannot be read, or the network gives features that are not finite.
    """
    if (order.folder / BANK_NAME).is_file():
        bank = read_bank(str(order.folder))
        if bank.identity != order.identity:
            raise _another(order.folder)
        _Failures(order, on_failure)
        return bank
    require_writable(order.folder)
    failures = _Failures(order, on_failure)
    lengths = _kept_lengths(order, failures)
    work = _Work(order, lengths, failures)
    if work.total:
        protocol = parse_protocol(_PROTOCOL)
        with closing(_features(order, work.rows(), work.first_row(clips_together(protocol)), protocol, plan)) as some:
            for clips in some:
                work.take(clips)
                on_progress(clips.first_row + len(clips.scores), work.total)
    return work.finish()


def _features(
    order: BankOrder, rows: pa.Table, first_row: int, protocol: Protocol, plan: ResourcePlan
) -> Generator[ScoredClips, None, None]:
    if order.here:
        yield from score_clips_here(
            order.files, rows, spec=order.spec, protocol=protocol, first_row=first_row, roots=order.roots,
            cache=order.cache, plugins=order.plugins, keep="features",
        )  # fmt: skip
        return
    yield from score_clips(
        order.files, rows, spec=order.spec, protocol=protocol, average="scores", plan=plan, first_row=first_row,
        roots=order.roots, cache=order.cache, clip_timeout_s=order.clip_timeout_s, plugins=order.plugins,
        keep="features",
    )  # fmt: skip


def moments_of(length_s: float, about: BankAbout) -> list[tuple[float, float]]:
    """Begin and end of the clip around each moment of a video, seconds. At the video's ends they are shorter."""
    count = max(1, round(length_s / about.every_s))
    middles = [min((number + 0.5) * about.every_s, length_s) for number in range(count)]
    return [(max(0.0, middle - about.span_s / 2), min(length_s, middle + about.span_s / 2)) for middle in middles]


@dataclass(slots=True)
class _Failures:
    """The ledger of a bank, and the limit of failures. Failures of an earlier call are told at once."""

    order: BankOrder
    tell: Callable[[str, str], None]
    known: dict[str, str] = field(default_factory=dict)
    """Video -> reason."""

    def __post_init__(self) -> None:
        if self._ledger.is_file():  # of an interrupted call
            entries = [json.loads(line) for line in self._ledger.read_text().splitlines()]
            self.known = {entry["video"]: entry["reason"] for entry in entries}
        for video, reason in self.known.items():
            self.tell(video, reason)

    @property
    def _ledger(self) -> StoragePath:
        return self.order.folder / LEDGER_NAME

    def add(self, uri: str, reason: str) -> None:
        """Raises: RunError if there are too many by now."""
        entry: dict[str, str] = redacted({"video": uri, "reason": reason})
        if entry["video"] in self.known:
            return
        self.known[entry["video"]] = entry["reason"]
        append_text(self._ledger, json.dumps(entry, ensure_ascii=False) + "\n")
        self.tell(entry["video"], entry["reason"])
        self.check()

    def check(self) -> None:
        count, videos, share = len(self.known), len(self.order.videos), self.order.max_failed_share
        if count > share * videos:
            video, reason = next(iter(self.known.items()))
            raise RunError(
                f"{count} of {videos} videos cannot be read, more than the share {share:g} that may fail ({video}: "
                f"{reason}); all reasons are in {self._ledger}"
            )


def _kept_lengths(order: BankOrder, failures: _Failures) -> Lengths:
    """The lengths of the videos: from the folder, else from the videos (then kept)."""
    path = order.folder / LENGTHS_NAME
    if path.is_file():
        try:
            document = json.loads(path.read_text())
            if document["identity"] != order.identity:
                raise _another(order.folder)
            kept = document["lengths"]
            failures.check()
            return {uri: kept[video_key(uri)] for uri in order.videos}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error!r}); remove the folder to make the bank again") from error
    found = video_lengths(
        order.videos, spec=order.spec, roots=order.roots, plugins=order.plugins, here=order.here
    )  # fmt: skip
    lengths = {uri: None if isinstance(length, str) else length for uri, length in found.items()}
    if isinstance(order.folder, Path):
        order.folder.mkdir(parents=True, exist_ok=True)
    for uri, length in found.items():
        if isinstance(length, str):
            failures.add(uri, length)
    keyed = {video_key(uri): length for uri, length in lengths.items()}
    write_json(path, {"identity": order.identity, "lengths": keyed})
    return lengths


def _another(folder: StoragePath) -> InputError:
    return InputError(f"{folder}: holds another bank (of another model, other settings or other videos); name another")


class _Work:
    """The rows of a bank, in order, and what was computed for them."""

    def __init__(self, order: BankOrder, lengths: Lengths, failures: _Failures) -> None:
        self._order, self._failures = order, failures
        self._uris = list(order.videos)
        self._clips = [
            [] if (length := lengths[uri]) is None else moments_of(length, order.about) for uri in self._uris
        ]
        self._stops = np.cumsum([len(clips) for clips in self._clips])
        self.total = int(self._stops[-1]) if len(self._stops) else 0
        self._waiting: list[np.ndarray] = []
        self._reasons: dict[str, str] = {}
        self._number = 0
        self._channels: int | None = None

    def rows(self) -> pa.Table:
        """A row for each moment."""
        spans = [span for clips in self._clips for span in clips]
        names = [uri for uri, clips in zip(self._uris, self._clips, strict=True) for _ in clips]
        return pa.table(
            {
                "clip_id": pa.array([f"{name} at {start:g} s" for name, (start, _) in zip(names, spans, strict=True)]),
                "uri": pa.array([self._order.videos[name] for name in names], pa.string()),
                "start_s": pa.array([start for start, _ in spans], pa.float64()),
                "end_s": pa.array([end for _, end in spans], pa.float64()),
                "reversed": pa.array([False] * len(names), pa.bool_()),
                "label": pa.array([0] * len(names), pa.int32()),
            }
        )

    def first_row(self, together: int) -> int:
        """Where to start: with the first video that has no file, and the rows that go together with its first one."""
        folder = self._order.folder / FEATURES_FOLDER
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for number, (uri, clips) in enumerate(zip(self._uris, self._clips, strict=True)):
            if clips and features_file(self._order.folder, uri).name not in there:
                self._number = number
                row = int(self._stops[number]) - len(clips)
                return row - row % together
        # All are there, but bank.json is not: the last video tells the number of channels again.
        self._number = max(number for number, clips in enumerate(self._clips) if clips)
        row = int(self._stops[self._number]) - len(self._clips[self._number])
        return row - row % together

    def take(self, some: ScoredClips) -> None:
        """Keep features of neighbouring rows, and write the files of the videos that are complete."""
        self._reasons |= {failure.uri: failure.reason for failure in some.failures}
        row = some.first_row
        for features_C, readable in zip(some.scores, some.readable, strict=True):
            begin = int(self._stops[self._number]) - len(self._clips[self._number])
            if row >= begin:
                self._add(features_C, readable=bool(readable))
                if row + 1 == self._stops[self._number]:
                    self._write()
            row += 1

    def _add(self, features_C: np.ndarray, *, readable: bool) -> None:
        if readable and not np.isfinite(features_C).all():
            raise RunError(f"the network gives features of {self._uris[self._number]} that are not finite")
        self._channels = len(features_C)
        self._waiting.append(features_C if readable else np.full_like(features_C, np.nan))

    def _write(self) -> None:
        uri = self._uris[self._number]
        features_SC = np.stack(self._waiting)
        if bad := int(np.isnan(features_SC).any(axis=1).sum()):
            reason = self._reasons.pop(self._order.videos[uri])
            self._failures.add(uri, f"{bad} of {len(features_SC)} moments: {reason}")
        write_bytes(features_file(self._order.folder, uri), features_bytes(features_SC))
        self._waiting.clear()
        later = [number for number in range(self._number + 1, len(self._clips)) if self._clips[number]]
        self._number = later[0] if later else self._number

    def finish(self) -> Bank:
        """Write the files of the videos without features, and the description."""
        order = self._order
        if self._channels is None:
            raise RunError(f"no video can be read; all reasons are in {order.folder / LEDGER_NAME}")
        for uri, clips in zip(self._uris, self._clips, strict=True):
            if not clips:
                write_bytes(features_file(order.folder, uri), features_bytes(np.zeros((0, self._channels))))
        about = {"model": order.about.model, "every_s": order.about.every_s, "span_s": order.about.span_s}
        document = {
            "identity": order.identity,
            **about,
            "channels": self._channels,
            "manifest": order.manifest,
            "failed": len(self._failures.known),
            "videos": {video_key(uri): len(clips) for uri, clips in zip(self._uris, self._clips, strict=True)},
            "resolved": {video_key(place): video_key(uri) for uri, place in order.videos.items() if place != uri},
        }
        write_json(order.folder / BANK_NAME, document)
        return read_bank(str(order.folder))
