"""Which clips are scored, and how? This also says what decides the scores, and which models can score the clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast, get_args

import pyarrow as pa

from w3ray.cluster.plan import ResourcePlan, plan_resources
from w3ray.data.bank import Bank, BankAbout, bank_for
from w3ray.data.boxes import BoxFile, read_boxes
from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import require_decoder
from w3ray.data.manifest import CLIP_COLUMNS, Manifest, read_manifest
from w3ray.data.stamps import changes_since_import
from w3ray.data.views import Protocol, parse_protocol
from w3ray.errors import InputError
from w3ray.evaluation.scorer import Average
from w3ray.models import model_family
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription
from w3ray.models.fits import check_clip

SCORING_VERSION = 2
"""Increased when the same model, clips and protocol get other scores than before."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A split of a manifest, and the protocol that it is scored with."""

    clips: Manifest
    split: str
    """The split's name in the manifest."""
    fold: int | None
    folds: int | None
    protocol: Protocol
    average: Average
    rows: pa.Table
    """The split's rows, with the columns `CLIP_COLUMNS`."""
    boxes: BoxFile | None = None
    """Boxes of the clips, for models that need them."""
    bank: Bank | None = None
    """The bank that the clips come with, for models that read one."""

    @classmethod
    def of(cls, manifest: str, split: str, *, protocol: str, average: str, fold: int | None, folds: int | None) -> Self:
        """Read the manifest. With `fold` and `folds`, its clips are divided into folds; the fingerprint is the fold's.

        Raises:
            InputError: no such manifest, split or fold, or an unknown protocol or average.
        """
        checked, looks = check_average(average), parse_protocol(protocol)
        if (fold is None) != (folds is None):
            raise InputError("--fold and --folds go together: give both or neither")
        clips = read_manifest(manifest)
        if fold is not None and folds is not None:
            clips = clips.with_fold(fold, folds)
        split = clips.split_named(split)
        rows = clips.split(split, CLIP_COLUMNS)
        return cls(clips=clips, split=split, fold=fold, folds=folds, protocol=looks, average=checked, rows=rows)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Everything except the model that decides the scores, as JSON values."""
        about = {
            "version": SCORING_VERSION, "manifest": self.clips.fingerprint(), "split": self.split,
            "protocol": self.protocol.name, "average": self.average,
        }  # fmt: skip
        if (changed := changes_since_import(self.clips, [self.split]).digest) is not None:
            about["changed_videos"] = changed  # so that scores of the files' old content are not used
        if self.boxes is not None:
            about["boxes"] = self.boxes.digest
        if self.bank is not None:
            about["bank"] = self.bank.identity
        return about

    def resolved_rows(self) -> pa.Table:
        """The rows, with uris that can be opened from anywhere, with their boxes and the files of their bank.

        Raises:
            InputError: a clip has no boxes, or its video is not in the bank.
        """
        place = self.rows.schema.get_field_index("uri")
        rows = self.rows.set_column(place, "uri", self.clips.resolved(self.rows["uri"]))
        where = self.clips.location
        rows = rows if self.boxes is None else self.boxes.joined(rows, where, own_times=self.clips.own_times)
        if self.bank is None:
            return rows
        return self.bank.joined(rows, where, location=where, fingerprint=self.clips.fingerprint())

    def require_same_clips(self, other: "Question") -> None:
        """Raises: InputError if the two have other clips, classes or labels."""
        ours, theirs = (set(one.rows["clip_id"].to_pylist()) for one in (self, other))
        if different := sorted(ours ^ theirs):
            raise InputError(
                f"{self.clips.location} and {other.clips.location}: {len(different)} clips are in one of them only, "
                f"such as {different[0]!r}"
            )
        columns = ["clip_id", "label"]
        if self.clips.heads != other.clips.heads or not self.rows.select(columns).equals(other.rows.select(columns)):
            raise InputError(
                f"{self.clips.location} and {other.clips.location}: other classes, labels or order of clips"
            )

    def require_classes(self, name: str, description: ModelDescription) -> None:
        """Raises: InputError if the model `name` has other classes than the clips."""
        clips = self.clips
        if description.heads == clips.heads.of_scores:
            return
        if description.classes == clips.classes and description.multi_label != clips.heads.multi_label:
            what, otherwise = "are multi-label", "have one class each"
            if description.multi_label:
                what, otherwise = otherwise, what
            raise InputError(
                f"{clips.location}: its clips {what}, but {name} was trained on clips that {otherwise}; import them "
                f"with --label-separator {'|' if description.multi_label else ''!r}"
            )
        if description.classes == clips.classes:
            raise InputError(
                f"{clips.location}: has the heads {dict(clips.head_sizes)}, but {name} has "
                f"{dict(description.head_sizes)}"
            )
        theirs, ours = set(description.classes), set(clips.classes)
        if theirs == ours:
            what = "the same classes in another order"
        else:
            unknown = sorted(ours ^ theirs)
            what = f"other classes: {len(unknown)} are in one of them only, such as {unknown[0]!r}"
        raise InputError(
            f"{clips.location}: has {what} than {name} was trained for; import the clips with --classes, which takes "
            "the model's class names in their order"
        )

    def require_clips(self, name: str, description: ModelDescription) -> None:
        """Raises: InputError if the model `name` cannot take the views of the protocol."""
        require_views(name, description, self.protocol)


def require_views(name: str, description: ModelDescription, protocol: Protocol) -> None:
    """Check that a model takes the views of a protocol. Of whole frames only the short side is known.

    Raises:
        InputError: it does not, or the decoder of its clips cannot be used here.
    """
    spec = ClipSpec(**description.clip)
    require_clip_decoder(name, spec)
    size = spec.resolved_short_side if protocol.whole_frame or protocol.crops == 3 else spec.size
    arguments = description.model
    options = model_family(arguments["name"]).options.from_options(arguments["options"] or {})
    try:
        check_clip(arguments["name"], options, arguments["backbone"], spec.num_frames, size)
    except ValueError as error:
        raise InputError(f"{name}: protocol {protocol.name}: {error}") from error


def require_clip_decoder(name: str, spec: ClipSpec) -> None:
    """Raises: InputError if the decoder of the clips of the model `name` cannot be used here."""
    try:
        require_decoder(spec.decoder)
    except InputError as error:
        raise InputError(f"{name}: {DESCRIPTION_NAME}: clip.decoder: {error}") from error


def boxes_for(name: str, description: ModelDescription, location: str | None) -> BoxFile | None:
    """The boxes that a model needs. None: it needs none.

    Args:
        name: of the model, for messages.
        description: of the model.
        location: of a file of boxes; None: there is none.

    Raises:
        InputError: it needs boxes, and there are none or they cannot be read.
    """
    if description.clip.get("boxes_per_frame") is None:
        return None
    if location is None:
        raise InputError(f"{name}: needs boxes of the clips; name the file with --boxes (see `w3ray data boxes`)")
    return read_boxes(location)


def model_bank(name: str, description: ModelDescription, locations: Sequence[str]) -> Bank | None:
    """The bank that a model reads. None: it reads none.

    Args:
        name: of the model, for messages.
        description: of the model.
        locations: folders of banks.

    Raises:
        InputError: it reads a bank, and none of these fits.
    """
    if description.clip.get("bank_window") is None:
        return None
    if description.bank is None:
        raise InputError(f"{name}: its {DESCRIPTION_NAME} does not say which bank it was trained with")
    return bank_for(name, BankAbout(**description.bank), description.clip["bank_channels"], locations)


def check_average(average: str) -> Average:
    """What is averaged over views: "scores" or "logits". Raises: InputError for any other name."""
    for known in get_args(Average):
        if average == known:
            return cast("Average", known)
    raise InputError(f"--average must be scores or logits, not {average!r}")


def plan_scoring(nodes: Sequence[Mapping[str, float]]) -> ResourcePlan:
    """A scorer on each GPU, or one on each node if there is no GPU. Decoders get the rest."""
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    scorers = gpus or sum(1 for node in nodes if node.get("CPU", 0) >= 1)
    return plan_resources(
        nodes=nodes, workers=(max(1, scorers),) * 2, use_gpu="auto", decoders="auto", cpus_per_worker=None
    )
