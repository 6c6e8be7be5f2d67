"""The sections of a recipe. Frozen, refuse unknown keys and do not guess types.

Names of models, decoders, losses and attentions are looked up in their tables when a recipe names them, so that
importing this module needs no torch.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from w3ray._nearest import did_you_mean
from w3ray.attention.options import AttentionConfig, W3Config
from w3ray.recipe._marks import AsBefore, Decides, Section, without_as_before

if TYPE_CHECKING:
    from w3ray.data.clip import ClipSpec
    from w3ray.data.shared_clips import SharedClips
    from w3ray.data.video_cache import VideoCache
    from w3ray.models.options import ModelOptions

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names become folders, run names and parts of a command line."""

STAGE_OVERRIDES = ("train", "model")
"""The sections of which a stage may override parts."""


def _known(what: str, table: Callable[[], Mapping[str, Any]]) -> AfterValidator:
    """The name must be in a family's table; the table is imported when a recipe names a member."""

    def check(name: str) -> str:
        known = table()
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; {did_you_mean(name, known)}known: {', '.join(known)}")
        return name

    return AfterValidator(check)


def _models() -> Mapping[str, Any]:
    from w3ray.models import MODELS

    return MODELS


def _backbones() -> Mapping[str, Any]:
    from w3ray.models import BACKBONES

    return BACKBONES


def _decoders() -> Mapping[str, Any]:
    from w3ray.data.decoders import DECODERS

    return DECODERS


def _check_loss(name: str) -> str:
    """A loss, or the part of one that is about one head: `cross_entropy.verb`."""
    kind, dot, head = name.partition(".")
    if dot and (kind != "cross_entropy" or not head):
        raise ValueError(f"unknown loss {name!r}; only cross_entropy has parts, as cross_entropy.verb")
    known = _losses()
    if kind not in known:
        raise ValueError(f"unknown loss {name!r}; {did_you_mean(kind, known)}known: {', '.join(known)}")
    return name


def _samplers() -> Mapping[str, Any]:
    from w3ray.data.clip_sampling import SAMPLERS

    return SAMPLERS


def _losses() -> Mapping[str, Any]:
    from w3ray.training.losses import LOSSES

    return LOSSES


def _read_attention(value: Any) -> AttentionConfig | None:
    """The typed options of an attention: what a recipe writes, or a config."""
    from w3ray.attention import attention_config

    if value is None or isinstance(value, AttentionConfig):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError("dict_type", "must be a section of keys")
    return attention_config(value)


def _write_attention(config: AttentionConfig | None) -> dict[str, Any] | None:
    return None if config is None else config.written_out()


def _write_options(options: Any) -> dict[str, Any] | None:
    return None if options is None else options.values()


SHIFT_OPTIONS = ("shift_div", "shift_mode")
"""Options of TSM that used to be keys of `model`."""


def options_of_before(model: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe's `model`, or of a part of it, with options under `options`.

    Raises:
        ValueError: an option is given under both names.
    """
    values = dict(model)
    old = {name: values.pop(name) for name in SHIFT_OPTIONS if name in values}
    if not old:
        return values
    options = values.get("options") or {}
    if twice := sorted(set(old) & set(options)):
        raise ValueError(f"{twice[0]} is the old name of options.{twice[0]}, which is given too; remove one")
    values["options"] = {**options, **old}
    return values


def merge_model(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """As `merge`, of the keys of a recipe's `model`; the options of another model are not inherited."""
    base, override = options_of_before(base), options_of_before(override)
    if override.get("name", base.get("name")) != base.get("name"):
        base.pop("options", None)
    return merge(base, override)


class Synthetic(Section):
    """A data set of generated motion clips, written below `storage` on first use (`w3ray data synth`)."""

    clips: int = Field(default=320, ge=1, description="training clips")
    val_clips: int | None = Field(default=None, ge=1, description="validation clips; null: a quarter of `clips`")
    test_clips: int | None = Field(default=None, ge=1, description="held-out clips; null: half of `clips`")
    seed: int = Field(default=0, ge=0, description="seed of everything that is drawn")
    size: int = Field(default=64, ge=16, description="side of the square frames, pixels, even")
    difficulty: Annotated[Literal["easy", "medium", "hard"], AsBefore("easy")] = Field(
        default="easy", description="how much else moves, and how much noise and background there is"
    )

    def determinants(self) -> dict[str, Any]:
        """What decides the clips, as JSON values; the number of clips of each split is written out."""
        from w3ray.data.synthetic import split_counts

        counts = split_counts(self.clips, self.val_clips, self.test_clips)
        return self.model_dump(mode="json") | {"val_clips": counts["val"], "test_clips": counts["test"]}

    @classmethod
    def shortest(cls, determinants: Mapping[str, Any]) -> dict[str, Any]:
        """`determinants` as the first versions wrote them, which the names of folders and identities are hashes of."""
        from w3ray.data.synthetic import split_counts

        derived = split_counts(determinants["clips"], None, None)
        values = without_as_before(cls, determinants)
        for name, split in (("val_clips", "val"), ("test_clips", "test")):
            if values[name] == derived[split]:
                values[name] = None
        return values


class Data(Section):
    """Which clips, and which frames and pixels of them."""

    manifest: str | None = Field(
        default=None, description="manifest file; a relative path counts from the current folder"
    )
    synthetic: Synthetic | None = Field(default=None, description="generate the clips instead of reading a manifest")
    roots: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, Decides.NOTHING] = Field(
        default=None,
        description="videos must lie below one of these folders or s3:// addresses; null: anywhere",
    )
    fold: int | None = Field(default=None, ge=0, description="cross-validation by group: which fold validates, from 0")
    folds: int | None = Field(default=None, ge=2, description="cross-validation by group: number of folds")
    num_frames: int = Field(default=8, ge=1, description="frames of a clip")
    sampling: Annotated[str, _known("sampling", _samplers)] = Field(
        default="segment", description="how frames are chosen"
    )
    stride_frames: int = Field(default=2, ge=1, description="frames between two samples of dense sampling")
    size: int = Field(default=224, ge=16, description="side of the square crop, pixels")
    short_side: int | None = Field(
        default=None, ge=16, description="evaluation: short side before the centre crop, pixels; null: size * 256 / 224"
    )
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0, 0.875, 0.75, 0.66),
        min_length=1,
        description="training: sides of the random crop, share of short side",
    )
    flip: bool = Field(
        default=False, description="training: mirror half of the clips; the manifest must have a flip map"
    )
    decoder: Annotated[str, _known("decoder", _decoders)] = Field(
        default="pyav", description="library that reads video files; only pyav reads them all, frame by frame as shown"
    )
    train_split: str = Field(default="train", description="split to train on")
    val_split: str = Field(default="val", description="split that chooses the best checkpoint")
    test_split: str | None = Field(default=None, description="split that is evaluated once, at the end; null: none")
    max_failed_share: float = Field(
        default=0.01, ge=0, le=1, description="stop when more than this share cannot be read"
    )
    cache_gib: Annotated[float | None, Decides.NOTHING] = Field(
        default=None, gt=0, description="disk of each node for videos of object storage, GiB; null: none"
    )
    cache_dir: Annotated[str | None, Decides.NOTHING] = Field(
        default=None, min_length=1, description="folder of that cache on each node; null: below the temporary files"
    )

    shared_clips_gib: Annotated[float, Decides.NOTHING] = Field(
        default=4.0,
        ge=0,
        description="sweeps: disk of each node for decoded clips that trials share, GiB; 0: each decodes for itself",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("give either 'manifest' or 'synthetic' (exactly one)")
        if self.roots is not None and self.manifest is None:
            raise ValueError("'roots' is about the videos of a manifest; remove it")
        if (self.fold is None) != (self.folds is None):
            raise ValueError("'fold' and 'folds' go together; give both or neither")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: {self.folds} folds are 0 to {self.folds - 1}")
        if self.cache_dir is not None and self.cache_gib is None:
            raise ValueError("'cache_dir' needs 'cache_gib': how much may be kept there")
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side {self.short_side} is smaller than size {self.size}, which is cut from it")
        return self

    def video_cache(self) -> "VideoCache | None":
        """Where decoders keep videos of object storage; None: nowhere."""
        from w3ray.data.video_cache import VideoCache, default_folder

        if self.cache_gib is None:
            return None
        folder = default_folder() if self.cache_dir is None else Path(self.cache_dir).expanduser().absolute()
        return VideoCache(folder=folder, limit_bytes=int(self.cache_gib * 2**30))

    def shared_clips(self, sweep: str) -> "SharedClips | None":
        """Where the trials of `sweep` (a file name) share decoded clips; None: nowhere."""
        from w3ray.data.shared_clips import SharedClips, default_root

        limit = int(self.shared_clips_gib * 2**30)
        return SharedClips(folder=default_root() / sweep, limit_bytes=limit) if limit else None

    def clip_spec(self) -> "ClipSpec":
        """What `w3ray.data.clip.load_clip` needs of this section."""
        from w3ray.data.clip import ClipSpec

        return ClipSpec(
            num_frames=self.num_frames,
            sampling=self.sampling,
            stride_frames=self.stride_frames,
            size=self.size,
            short_side=self.short_side,
            scales=self.scales,
            flip=self.flip,
            decoder=self.decoder,
        )


class Model(Section):
    """Which network. `attention: null` is the plain one."""

    name: Annotated[str, _known("model", _models)] = Field(default="tsm", description="temporal model")
    backbone: Annotated[str, _known("backbone", _backbones)] = Field(
        default="resnet50", description="2D network under it; of frame networks only"
    )
    options: Annotated[Any, AsBefore(None), PlainSerializer(_write_options)] = Field(
        default=None, validate_default=True, description="options of that temporal model, such as TSM's shift_div"
    )
    attention: Annotated[AttentionConfig | None, PlainValidator(_read_attention), PlainSerializer(_write_attention)] = (
        Field(
            default=W3Config(),
            description="kind and options of the attention in the residual blocks; null: none",
        )
    )
    refinement: bool = Field(
        default=True,
        description="attention-guided feature refinement; off without attention and without its spatial masks",
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of features dropped before the classifier")
    weights: str | None = Field(
        default=None, description="initial weights: torchvision enum or local file; null: random"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return options_of_before(values) if isinstance(values, Mapping) else values

    @field_validator("options", mode="plain")
    @classmethod
    def _read_options(cls, value: Any, info: ValidationInfo) -> "ModelOptions | None":
        from w3ray.models import model_family
        from w3ray.models.options import ModelOptions

        if "name" not in info.data:
            return None  # which is the fault that is told
        family = model_family(info.data["name"])
        if isinstance(value, ModelOptions):
            value = value.values()
        if value is not None and not isinstance(value, Mapping):
            raise PydanticCustomError("dict_type", "must be a section of keys")
        return family.options.from_options(value or {})

    @property
    def takes_backbone(self) -> bool:
        """Whether there is a 2D network under it."""
        from w3ray.models import model_family

        return model_family(self.name).takes_backbone

    @property
    def refines(self) -> bool:
        """Whether the model has the refinement: asked for, and there are spatial masks to refine with."""
        return self.refinement and self.attention is not None and self.attention.has_spatial_mask

    def build_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `build_model` but `num_classes`; equal for recipes that mean the same model."""
        backbone = self.backbone if self.takes_backbone else None
        return {**self.model_dump(), "backbone": backbone, "refinement": self.refines}

    def architecture(self) -> dict[str, Any]:
        """What decides the shapes of the parameters and features."""
        arguments = self.build_arguments()
        del arguments["weights"], arguments["dropout"]
        return arguments


class LrSchedule(Section):
    """How the learning rate moves over the epochs of a stage."""

    kind: Literal["step", "cosine", "constant"] = Field(default="step", description="shape after the warm-up")
    warmup_epochs: float = Field(default=0, ge=0, description="epochs of linear rise from near 0")
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(20, 40), description="step: epochs that drop it"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="step: factor at each milestone")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        return self


class Phase(Section):
    """Optimiser settings from an epoch on; null: as before."""

    from_epoch: int = Field(ge=1, description="epochs trained before it begins")
    lr: float | None = Field(default=None, gt=0, description="as `train.lr`; the schedule's shape stays")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="as `train.momentum`")
    weight_decay: float | None = Field(default=None, ge=0, description="as `train.weight_decay`")


class Train(Section):
    """How a stage is trained. The defaults are TSM's recipe, which the W3 paper follows."""

    epochs: int = Field(default=50, ge=1, description="passes over the training split")
    batch_size: int = Field(default=64, ge=1, description="clips of one optimiser step, over all workers")
    microbatch_size: int = Field(default=8, ge=1, description="clips of one forward and backward pass on one worker")
    rows_together: int = Field(
        default=1,
        ge=1,
        description="neighbouring training rows, all of one clip, that share a microbatch, random frames and crop; "
        "2: a clip and its reversed twin",
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser")
    lr: float = Field(default=0.01, gt=0, description="learning rate at a global batch of `lr_batch_size`")
    lr_batch_size: int = Field(default=64, ge=1, description="clips; the rate is scaled by batch_size / lr_batch_size")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 decay of weights; not of biases and norms")
    schedule: LrSchedule = Field(default=LrSchedule(), description="learning rate over time")
    phases: Annotated[tuple[Phase, ...], AsBefore(())] = Field(
        default=(), description="other optimiser settings from an epoch on: what population based training finds"
    )
    clip_grad_norm: float | None = Field(default=20.0, gt=0, description="largest norm of the gradient; null: no limit")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="arithmetic of the forward pass")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of probability spread over all classes")
    batch_norm: Literal["train", "partial", "frozen", "sync"] = Field(
        default="train",
        description="train: statistics of each worker's microbatch; partial: only the first layer learns; "
        "frozen: none; sync: statistics over all workers",
    )
    classifier_weight_multiplier: float = Field(
        default=5.0, gt=0, description="learning rate factor, classifier weight"
    )
    classifier_bias_multiplier: float = Field(default=10.0, gt=0, description="learning rate factor, classifier bias")
    attention_lr_multiplier: Annotated[float, AsBefore(1.0)] = Field(
        default=1.0, gt=0, description="learning rate factor of the attention's parameters, beside those of biases"
    )
    bias_multiplier: float = Field(default=2.0, gt=0, description="learning rate factor, other biases")
    validate_every_epochs: Annotated[int, Decides.CHECKPOINTS] = Field(
        default=1, ge=1, description="epochs between validations; the last epoch has one"
    )
    checkpoint_every_epochs: Annotated[int, Decides.NOTHING] = Field(
        default=1, ge=1, description="epochs between checkpoints"
    )
    checkpoint_every_steps: Annotated[int | None, Decides.NOTHING] = Field(
        default=None, ge=1, description="optimiser steps between further checkpoints"
    )
    keep_checkpoints: Annotated[int, Decides.NOTHING] = Field(
        default=2, ge=1, description="newest checkpoints to keep, beside the best"
    )
    best_metric: Literal["top1", "top5", "mean_class_accuracy", "last"] = Field(
        default="top1", description="validation metric that chooses the best checkpoint"
    )
    log_every_steps: Annotated[int, Decides.NOTHING] = Field(
        default=5, ge=1, description="optimiser steps between two points of the training curves"
    )
    log_samples: Annotated[bool, Decides.NOTHING] = Field(
        default=False, description="write samples-<rank>.jsonl in the stage's folder: what each microbatch held"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.microbatch_size > self.batch_size:
            raise ValueError(
                f"microbatch_size {self.microbatch_size} is larger than batch_size {self.batch_size}; "
                "lower microbatch_size or raise batch_size"
            )
        begins = [phase.from_epoch for phase in self.phases]
        if begins != sorted(set(begins)) or any(begin >= self.epochs for begin in begins):
            raise ValueError(f"phases must begin at rising epochs below epochs={self.epochs}, got {begins}")
        return self

    def at_epoch(self, epoch: int) -> "Train":
        """The settings of an epoch, counted from 0, with those of its phases."""
        values: dict[str, Any] = {}
        for phase in self.phases:
            if phase.from_epoch <= epoch:
                values |= phase.model_dump(exclude={"from_epoch"}, exclude_none=True)
        return self.model_copy(update=values)


class Stage(Section):
    """One training of the chain; with a teacher it learns from that stage's best checkpoint."""

    name: str = Field(pattern=NAME_PATTERN, description="name, unique in the recipe")
    teacher: str | None = Field(default=None, description="name of an earlier stage")
    loss_weights: dict[Annotated[str, AfterValidator(_check_loss)], Annotated[float, Field(ge=0)]] = Field(
        default={},
        description="weights of the losses; cross_entropy is 1 unless given; cross_entropy.verb: of head 'verb' alone",
    )
    train: dict[str, Any] = Field(default={}, description="parts of the recipe's `train` that differ in this stage")
    model: dict[str, Any] = Field(default={}, description="parts of the recipe's `model` that differ in this stage")
    seed_offset: int | None = Field(
        default=None,
        ge=0,
        description="what is added to the recipe's seed; null: the stage's place, so that a student is not its "
        "teacher's run once more. Stages to be compared take the same",
    )


class Evaluation(Section):
    """What is evaluated at the end of each stage."""

    split: Literal["test", "val"] = Field(default="val", description="split whose result the run reports")


class Tracking(Section):
    """Where runs are recorded."""

    enabled: bool = Field(default=True, description="record runs in MLflow")
    uri: str | None = Field(
        default=None, description="MLflow address; null: MLFLOW_TRACKING_URI, else SQLite in `storage`"
    )
    experiment: str | None = Field(
        default=None, min_length=1, description="experiment; null: MLFLOW_EXPERIMENT_NAME, else the recipe's name"
    )
    registered_model: str | None = Field(
        default=None, min_length=1, description="registered model; null: the recipe's name"
    )
    explain_clips: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="clip_ids of which pictures of what the attention looks at are drawn while training; about a "
        "second for each",
    )
    explain_every_epochs: int | None = Field(
        default=None, ge=1, description="epochs between those pictures, the last one included; null: at each validation"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name in self.explain_clips if self.explain_clips.count(name) > 1]
        if twice:
            raise ValueError(f"explain_clips: {twice[0]!r} is named twice; remove one")
        if self.explain_every_epochs is not None and not self.explain_clips:
            raise ValueError("'explain_every_epochs' needs 'explain_clips': of which clips")
        return self


class Resources(Section):
    """What of the cluster a run takes, and how long it waits for it."""

    workers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=1, description="training workers (DDP); [least, most]: as many of them as the cluster has room for"
    )
    worker_resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="custom Ray resources of each worker: places workers on the nodes that have them"
    )
    decoder_resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="custom Ray resources of each decoder, as {decode: 1} for nodes that only decode"
    )
    may_grow: bool = Field(
        default=False,
        description="nodes come as they are asked for (autoscaling): do not refuse what does not fit the present ones",
    )
    resize_every_s: float = Field(
        default=60.0, gt=0, description="seconds between looks whether the cluster has room for more workers"
    )
    clip_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="seconds that decoding a clip may take, fetching apart; one that exceeds them twice is unreadable",
    )
    stall_timeout_s: float = Field(
        default=600.0, ge=1, description="seconds without progress after which a stage's processes are started anew"
    )
    cpus_per_worker: float | None = Field(default=None, gt=0, description="CPU cores of each worker; null: derived")
    use_gpu: bool | Literal["auto"] = Field(
        default="auto", description="a GPU for each worker; auto: where there are enough"
    )
    decoders: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", description="decoder processes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = self.workers_range
        if least > most:
            raise ValueError(f"workers {list(self.workers_range)}: the least comes first, as in [1, 4]")
        for name in ("worker_resources", "decoder_resources"):
            for own, field in (
                ("CPU", "cpus_per_worker and decoders"),
                ("GPU", "use_gpu"),
                ("memory", "Ray's options"),
            ):
                if own in getattr(self, name):
                    raise ValueError(f"{name} is for custom resources; {own} is set by {field}")
        return self

    @property
    def workers_range(self) -> tuple[int, int]:
        """Least and most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


PLAIN_STAGE = "plain"
"""The stage that `Recipe.with_plain` adds."""


class ResolvedStage(Section):
    """A stage with nothing left to look up."""

    index: int
    name: str
    seed: int
    teacher: str | None
    loss_weights: dict[str, float]
    train: Train
    model: Model


_OTHER_NAMES = {"identity_start": "start", "start": "identity_start"}
"""An option of attentions has two names; the one that is given replaces the other one below it."""


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `override`; sections are merged, but for an attention of another kind."""
    replaced = {_OTHER_NAMES.get(key) for key in override} - set(override)
    merged = {key: value for key, value in base.items() if key not in replaced}
    for key, value in override.items():
        old = merged.get(key)
        other_kind = isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind", old.get("kind"))
        if isinstance(old, Mapping) and isinstance(value, Mapping) and other_kind == old.get("kind"):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
