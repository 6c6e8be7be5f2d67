"""Which clips does a run read, and which frames and pixels of them?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from w3ray.data.augmentation import AugmentationChoice
from w3ray.plugins import Part
from w3ray.recipe._marks import AsBefore, Decides, Section, without_as_before
from w3ray.recipe.sections._known import known_in

if TYPE_CHECKING:
    from w3ray.data.clip import ClipSpec
    from w3ray.data.manifest import Manifest
    from w3ray.data.shared_clips import SharedClips
    from w3ray.data.video_cache import VideoCache


_Augmentation = Annotated[
    AugmentationChoice, PlainValidator(AugmentationChoice.of), PlainSerializer(AugmentationChoice.written)
]


class Synthetic(Section):
    """A data set of generated motion clips, written to a folder in `storage` on first use (`w3ray data synth`)."""

    clips: int = Field(default=320, ge=1, description="training clips")
    val_clips: int | None = Field(default=None, ge=1, description="validation clips; null: a quarter of `clips`")
    test_clips: int | None = Field(default=None, ge=1, description="held-out clips; null: half of `clips`")
    seed: int = Field(default=0, ge=0, description="seed of all random choices")
    size: int = Field(default=64, ge=16, description="side of the square frames, pixels, even")
    difficulty: Annotated[Literal["easy", "medium", "hard"], AsBefore("easy")] = Field(
        default="easy", description="amount of other motion, noise and background"
    )

    def determinants(self) -> dict[str, Any]:
        """The values that decide the clips, as JSON values. The number of clips of each split is written out."""
        from w3ray.data.synthetic import split_counts

        counts = split_counts(self.clips, self.val_clips, self.test_clips)
        return self.model_dump(mode="json") | {"val_clips": counts["val"], "test_clips": counts["test"]}

    @classmethod
    def shortest(cls, determinants: Mapping[str, Any]) -> dict[str, Any]:
        """`determinants` in the form of the first versions. Names of folders and identities hash this form."""
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
        default=None, description="manifest file; a relative path is relative to the current folder"
    )
    synthetic: Synthetic | None = Field(default=None, description="generate the clips instead of reading a manifest")
    roots: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, Decides.NOTHING] = Field(
        default=None,
        description="videos must be inside one of these folders or s3:// addresses; null: anywhere",
    )
    fold: int | None = Field(default=None, ge=0, description="cross-validation by group: the validation fold, from 0")
    folds: int | None = Field(default=None, ge=2, description="cross-validation by group: number of folds")
    head: Annotated[str | None, AsBefore(None)] = Field(
        default=None,
        min_length=1,
        description="of clips with several labels, the one to learn, such as verb; null: all of them together",
    )
    num_frames: int = Field(default=8, ge=1, description="frames of a clip")
    sampling: Annotated[str, known_in("sampling", "samplers")] = Field(
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
        description="training: sides of the random crop, as shares of the short side",
    )
    flip: bool = Field(
        default=False, description="training: mirror half of the clips; the manifest must have a flip map"
    )
    augmentations: Annotated[tuple[_Augmentation, ...], AsBefore(())] = Field(
        default=(),
        description="training: further changes of a clip, in this order; a name, or a section of a name and options",
    )
    flow_fields: Annotated[int | None, AsBefore(None)] = Field(
        default=None, ge=1, description="optical flow: neighbouring fields stacked at each sample; null: RGB frames"
    )
    boxes: Annotated[str | None, AsBefore(None)] = Field(
        default=None,
        min_length=1,
        description="file of boxes of things, for networks that need them (`w3ray data boxes`)",
    )
    boxes_per_frame: Annotated[int, AsBefore(10)] = Field(
        default=10, ge=1, description="boxes: how many of each frame a network gets, best first"
    )
    decoder: Annotated[str, known_in("decoder", "decoders")] = Field(
        default="pyav", description="library that reads video files; only pyav reads all of them with exact frames"
    )
    train_split: str = Field(default="train", description="split to train on")
    val_split: str = Field(default="val", description="split to choose the best checkpoint on")
    test_split: str | None = Field(default=None, description="split that is evaluated once, at the end; null: none")
    max_failed_share: float = Field(
        default=0.01, ge=0, le=1, description="stop when more than this share of clips cannot be read"
    )
    cache_gib: Annotated[float | None, Decides.NOTHING] = Field(
        default=None, gt=0, description="disk space on each node to cache videos of object storage, GiB; null: none"
    )
    cache_dir: Annotated[str | None, Decides.NOTHING] = Field(
        default=None, min_length=1, description="folder of this cache on each node; null: in the temporary folder"
    )

    shared_clips_gib: Annotated[float, Decides.NOTHING] = Field(
        default=4.0,
        ge=0,
        description="sweeps: disk space on each node for decoded clips that trials share, and the same again for "
        "features of their teachers, GiB; 0: no sharing",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.manifest is None) == (self.synthetic is None):
            raise ValueError("give either 'manifest' or 'synthetic' (exactly one)")
        if self.roots is not None and self.manifest is None:
            raise ValueError("'roots' is only for the videos of a manifest; remove it")
        if (self.fold is None) != (self.folds is None):
            raise ValueError("'fold' and 'folds' go together; give both or neither")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: {self.folds} folds are 0 to {self.folds - 1}")
        if self.cache_dir is not None and self.cache_gib is None:
            raise ValueError("'cache_dir' needs 'cache_gib', the size limit of the cache")
        if self.flow_fields is not None and self.synthetic is not None:
            raise ValueError("'flow_fields' needs a manifest of optical flow (see `w3ray data flow`), not 'synthetic'")
        if self.boxes is not None and self.synthetic is not None:
            raise ValueError("'boxes' needs a manifest (see `w3ray data synth`, `w3ray data boxes`), not 'synthetic'")
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side {self.short_side} is smaller than size {self.size}, the side of the crop")
        return self

    def chosen(self, manifest: "Manifest") -> "Manifest":
        """The manifest with the folds and the head that this section names.

        Raises:
            InputError: there are no such folds, or no such head.
        """
        if self.folds is not None and self.fold is not None:
            manifest = manifest.with_fold(self.fold, self.folds)
        return manifest if self.head is None else manifest.with_head(self.head)

    def video_cache(self) -> "VideoCache | None":
        """Where decoders cache videos of object storage. None: nowhere."""
        from w3ray.data.video_cache import VideoCache, default_folder

        if self.cache_gib is None:
            return None
        folder = default_folder() if self.cache_dir is None else Path(self.cache_dir).expanduser().absolute()
        return VideoCache(folder=folder, limit_bytes=int(self.cache_gib * 2**30))

    def shared_clips(self, sweep: str) -> "SharedClips | None":
        """Where the trials of `sweep` (a file name) share decoded clips. None: nowhere."""
        from w3ray.data.shared_clips import SharedClips, default_root

        limit = int(self.shared_clips_gib * 2**30)
        return SharedClips(folder=default_root() / sweep, limit_bytes=limit) if limit else None

    def clip_spec(self) -> "ClipSpec":
        """The part of this section that `w3ray.data.clip.load_clip` needs."""
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
            augmentations=self.augmentations,
            flow_fields=self.flow_fields,
            boxes_per_frame=None if self.boxes is None else self.boxes_per_frame,
        )

    def parts(self) -> Iterator[Part]:
        """The parts that decide the clips."""
        yield "samplers", self.sampling
        yield "decoders", self.decoder
        for augmentation in self.augmentations:
            yield "augmentations", augmentation.name
