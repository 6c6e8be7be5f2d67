"""What are the stages of a run before anything starts: which is which, where are they kept, and what is left to do?"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from w3ray.data.bank import BANK_NAME, LENGTHS_NAME, BankAbout
from w3ray.data.clip import ClipSpec
from w3ray.data.schedule import Schedule
from w3ray.data.stamps import FileChanges
from w3ray.events import WeightsTaken
from w3ray.heads import Heads
from w3ray.pipeline.initial_weights import RANDOM, InitialWeights
from w3ray.pipeline.stage_store import StageStatus, StageStore
from w3ray.plugins import sources_of
from w3ray.recipe import ResolvedBank, ResolvedStage
from w3ray.runtime.explained import ExplainedClip
from w3ray.storage import StoragePath, fetched

if TYPE_CHECKING:
    from w3ray.models._common import LoadedWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """The data of a run: what the manifest says, and the columns of its rows that decoders need.

    `splits` maps `train`, `val` and `test`, as the workers use these words, to tables with resolved uris.
    `to_generate` is the folder of a generated data set that does not exist yet; its content is known already.
    `files` says which videos changed since the import.
    `explained` are the clips that training draws pictures of.
    """

    heads: Heads
    flip_map: Mapping[int, int]
    location: str
    fingerprint: str
    splits: Mapping[str, pa.Table]
    clip: ClipSpec
    determinants: Mapping[str, Any]
    to_generate: StoragePath | None
    files: FileChanges
    explained: tuple[ExplainedClip, ...] = ()

    @property
    def num_clips(self) -> int:
        return sum(table.num_rows for table in self.splits.values())

    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Name of a head ("" for a single one) -> training clips of each of its classes."""
        labels = self.splits["train"]["label"].to_numpy()
        if self.heads.multi_label:
            return {"": self.heads.clips_of_classes(np.bincount(labels, minlength=self.heads.num_labels).tolist())}
        return {
            head.name: tuple(np.bincount(head.label(labels), minlength=len(head.classes)).tolist())
            for head in self.heads.each()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage of a run: what it is, where it is kept, and what is left to do."""

    stage: ResolvedStage
    seed: int
    identity: str
    determinants: Mapping[str, Any]
    store: StageStore
    status: StageStatus
    schedule: Schedule
    teacher: str | None
    bank: "PlannedBank | None" = None
    """The bank that the clips come with."""
    weights: InitialWeights = RANDOM
    loaded: "LoadedWeights | None" = None
    """What a stage that has not begun takes of its initial weights."""

    def clip(self, data: PreparedData) -> ClipSpec:
        """What a clip of this stage is."""
        shape = self.stage.bank_shape()
        if self.bank is None or shape is None:
            return data.clip
        window, channels = shape
        return replace(data.clip, bank_window=window, bank_channels=channels, bank_every_s=self.bank.stage.every_s)

    def model_arguments(self, data: PreparedData) -> dict[str, Any]:
        """Keyword arguments of `build_model`, with weights that workers on any node find."""
        arguments = {**self.stage.model.build_arguments(), "num_classes": data.heads.num_scores}
        if data.clip.flow_fields is not None:
            arguments["flow_fields"] = data.clip.flow_fields
        arguments["weights"] = self.weights.place
        return arguments

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps

    @property
    def sources(self) -> dict[str, Any]:
        """The stage's parts that are not built in, for its processes: see `w3ray.plugins.sources_of`."""
        deciding = {**self.determinants.get("plugins", {}), **self.determinants["data"].get("plugins", {})}
        return deciding | sources_of(self.stage.watchers())


def weights_taken(item: "Planned") -> WeightsTaken | None:
    """What a stage that has not begun takes of its initial weights; None: it has begun, or has random ones."""
    if isinstance(item, PlannedBank) or item.loaded is None:
        return None
    return WeightsTaken(
        stage=item.stage.name,
        source=str(item.weights.source),
        layout=item.loaded.layout,
        taken=item.loaded.loaded,
        left_out=item.loaded.left_out,
        fresh=item.loaded.fresh,
    )


class BankStore(StageStore):
    """The folder of a bank: see `w3ray.data.bank`. Beside these files it has stage.json, result.json and the lock."""

    def status(self, determinants: Mapping[str, Any]) -> StageStatus:
        result = self.result()
        if result is not None and (self.directory / BANK_NAME).is_file():
            return StageStatus(state="reuse", why=f"finished {result['finished']}, identity {self.identity[:12]}")
        if (self.directory / LENGTHS_NAME).is_file():
            return StageStatus(state="resume", why="unfinished, keeps the features of finished videos")
        return StageStatus(state="run", why=self._why_new(determinants))

    def _is_result(self, document: Any) -> bool:
        return isinstance(document, dict) and {"features", "videos", "tracking_run", "finished"} <= set(document)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBank:
    """One stage of kind bank of a run."""

    stage: ResolvedBank
    of: PlannedStage
    """The training whose network makes the features."""
    identity: str
    determinants: Mapping[str, Any]
    store: BankStore
    status: StageStatus

    @property
    def total_steps(self) -> int:
        """A bank has no steps."""
        return 0

    @property
    def sources(self) -> dict[str, Any]:
        """As `PlannedStage.sources`."""
        return self.of.sources

    def about(self) -> BankAbout:
        """What networks must know of this bank. The training `of` is finished."""
        from w3ray.models.bundle import WEIGHTS_NAME

        with fetched(self.of.store.model) as folder, (folder / WEIGHTS_NAME).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BankAbout(model=digest, every_s=self.stage.every_s, span_s=self.stage.span_s)


Planned = PlannedStage | PlannedBank
"""A stage of a run."""
