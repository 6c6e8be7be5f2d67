"""How do model folders and video files become picture files?"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from w3ray._file_names import unique_stems
from w3ray._nearest import did_you_mean
from w3ray.attention import attention_config, health
from w3ray.attention.meter import GateMeter
from w3ray.data.bank import BANK_COLUMN, BankAbout, bank_for, video_name
from w3ray.data.boxes import BOXES_COLUMN, BoxFile, read_boxes
from w3ray.data.clip import Clip, ClipSpec, read_clip
from w3ray.data.clip_files import holds_video
from w3ray.data.decoders import DecodeError, require_decoder
from w3ray.data.side_inputs import Extras, extras_of
from w3ray.errors import InputError
from w3ray.explaining.explanation import Explanation, explain_clip
from w3ray.explaining.film import write_film
from w3ray.explaining.pictures import Frames, film_images, stages_figure, strip_figure
from w3ray.models import model_family
from w3ray.models._common import VideoModel
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription, load_model, model_folder
from w3ray.storage import fetched

_OUTPUTS = {"strip": "strip.png", "stages": "stages.png", "film": "film.mp4"}

# Two models see the same pixels of a video only if these fields are equal.
_SAME_CLIP = ("num_frames", "sampling", "stride_frames", "size", "resolved_short_side")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedVideo:
    """What `explain_videos` found in one video, and the files that it wrote."""

    video: str
    true: str | None
    """The true class, if it was given."""
    strip: Path
    stages: Path
    film: Path
    models: tuple[Explanation, ...]
    """The answer of each model, that of the first one first."""
    top: int
    """How many classes the document lists."""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "video": self.video,
            "true": self.true,
            **{name: str(getattr(self, name)) for name in _OUTPUTS},
            "models": [one.document(self.top) for one in self.models],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGates:
    """What a model's gates did over all explained clips."""

    name: str
    stages: tuple[health.StageHealth, ...]
    """One for each stage of the network."""

    @property
    def faults(self) -> list[str]:
        """A line for each gate that chooses nothing."""
        return health.faults(self.stages)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"name": self.name, "stages": health.document(self.stages), "faults": self.faults}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedVideos:
    """What `explain_videos` returns."""

    model: str
    """Where the model is."""
    against: str | None
    """Where the second model is."""
    videos: tuple[ExplainedVideo, ...]
    attention: tuple[ModelGates, ...]
    """One for each model."""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "against": self.against,
            "videos": [one.document() for one in self.videos],
            "attention": [one.document() for one in self.attention],
        }


class Explainer:
    """A model of a folder, ready to explain clips.

    Args:
        location: a model folder (`w3ray.models.bundle`), or the folder of a finished stage, which holds a model folder.
            A local path or an address in object storage.

    Raises:
        InputError: the folder does not exist or cannot be used.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.folder = model_folder(location)
        with fetched(self.folder) as local:
            model, self.description = load_model(local)
        assert isinstance(model, VideoModel)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: VideoModel = model.to(device)
        try:
            self.spec = ClipSpec(**self.description.clip)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.folder}/{DESCRIPTION_NAME}: clip: {error}; written by another version?") from error
        try:
            require_decoder(self.spec.decoder, in_process=True)
        except InputError as error:
            raise InputError(f"{self.folder}/{DESCRIPTION_NAME}: clip.decoder: {error}") from error
        self.name = _model_name(self.description)
        self.meter = GateMeter(self.model)
        """Measures the gates over all explained clips."""

    @property
    def has_attention(self) -> bool:
        """Whether the model has an attention. Without one, only Grad-CAM can be shown."""
        return any(site.attention is not None for stage in self.model.stages() for site in stage)

    def load(self, video: str) -> Clip:
        """The clip that evaluation takes of a video.

        Raises:
            InputError: the video cannot be read.
        """
        if os.path.isdir(video) and holds_video(video):
            raise InputError(f"{video}: this is a folder of videos; name the videos to explain")
        try:
            return read_clip(video, label=0, spec=self.spec, rng=None)
        except DecodeError as error:
            raise InputError(str(error)) from error

    def extras(self, video: str, clip: Clip, boxes: BoxFile | None, banks: Sequence[str] = ()) -> Extras:
        """The side inputs of a video's clip. The boxes are those of its path, or of its name without the ending.

        Raises:
            InputError: the model needs boxes or a bank, and there are none of this video.
        """
        row: dict[str, Any] = {}
        if "boxes" in self.spec.side_inputs:
            if boxes is None:
                raise InputError(f"{self.folder}: needs boxes of the videos; name the file with --boxes")
            row[BOXES_COLUMN] = boxes.of(video, Path(urlsplit(video).path).stem)
        if "bank" in self.spec.side_inputs:
            about, channels = BankAbout(**(self.description.bank or {})), self.description.clip["bank_channels"]
            row[BANK_COLUMN] = bank_for(str(self.folder), about, channels, banks).file_of(video_name(video, ""))
        return extras_of(row, clip, self.spec)

    def explain(self, frames_THWC: Frames, extras: Extras | None = None) -> Explanation:
        """As `explain_clip`."""
        about = self.description
        with self.meter.watching():
            return explain_clip(
                self.model,
                frames_THWC,
                classes=about.classes,
                head_sizes=about.head_sizes,
                multi_label=about.multi_label,
                name=self.name,
                mean=about.mean,
                std=about.std,
                extras=extras,
            )


def explain_videos(
    model: str | os.PathLike[str],
    videos: Sequence[str],
    *,
    out: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    true: str | None = None,
    top: int = 5,
    boxes: str | None = None,
    banks: Sequence[str] = (),
) -> ExplainedVideos:
    """Explain videos. For each video, write a strip, a picture of the stages and a film to the folder `out`.

    Args:
        model: see `Explainer`. The model must have attention.
        videos: paths or addresses.
        out: created, with its parents. `<video>.strip.png`, `<video>.stages.png` and `<video>.film.mp4` in it are
            replaced.
        against: a second model of the same classes and clips, shown beside the first. If it has no masks, its Grad-CAM
            is shown.
        true: the videos' class, if known.
        top: how many classes the answer lists.
        boxes: file of boxes of the videos, for models that need them.
        banks: folders of banks of the videos, for models that read one.

    Raises:
        InputError: a model or video cannot be used, or `out` cannot be written.
    """
    explainers = [Explainer(model)]
    if not explainers[0].has_attention:
        raise InputError(
            f"{model}: a model without attention has no masks to show; name a model with attention, "
            "and pass this one as --against to see its Grad-CAM"
        )
    if against is not None:
        explainers.append(Explainer(against))
        _check_comparable(*explainers)
        _tell_apart(explainers)
    classes = explainers[0].description.heads.answers()
    if true is not None and true not in classes:
        hint = did_you_mean(true, classes)
        raise InputError(
            f"{true!r} is not a class of {model}: {hint}it has {len(classes)} classes: {', '.join(classes[:8])}..."
        )
    if banks and not any("bank" in one.spec.side_inputs for one in explainers):
        raise InputError(f"--bank {banks[0]}: {model} reads no bank; leave it out")
    box_file = None if boxes is None else read_boxes(boxes)
    folder = Path(out)
    answers = []
    names = [_name(video) for video in videos]
    for video, name, stem in zip(videos, names, _stems(videos), strict=True):
        clip = explainers[0].load(video)
        frames_THWC = clip.frames_TSSC
        explanations = [
            explainer.explain(frames_THWC, explainer.extras(video, clip, box_file, banks)) for explainer in explainers
        ]
        paths = {name: folder / f"{stem}.{suffix}" for name, suffix in _OUTPUTS.items()}
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)  # only now: a video that cannot be read leaves no empty folder
            _draw(paths, frames_THWC, explanations, title=name, true=true)
        answers.append(
            ExplainedVideo(
                video=video, true=true, strip=paths["strip"], stages=paths["stages"], film=paths["film"],
                models=tuple(explanations), top=min(top, len(classes)),
            )
        )  # fmt: skip
    return ExplainedVideos(
        model=str(explainers[0].folder),
        against=None if against is None else str(explainers[1].folder),
        videos=tuple(answers),
        attention=tuple(ModelGates(name=one.name, stages=one.meter.stages()) for one in explainers),
    )


def _draw(
    paths: Mapping[str, Path], frames_THWC: Frames, explanations: Sequence[Explanation], *, title: str, true: str | None
) -> None:
    strip = strip_figure(frames_THWC, explanations, title=title, true=true)
    stages = stages_figure(frames_THWC, explanations, title=title, true=true)
    images = film_images(frames_THWC, explanations, title=title, true=true)
    _replace(paths["strip"], lambda path: strip.savefig(path))
    _replace(paths["stages"], lambda path: stages.savefig(path))
    _replace(paths["film"], lambda path: write_film(path, images))


def _check_comparable(first: Explainer, second: Explainer) -> None:
    if first.description.multi_label != second.description.multi_label:
        raise InputError(
            f"--against {second.folder}: only one of the models is multi-label; compare models of one data set"
        )
    if first.description.classes != second.description.classes:
        ours, theirs = len(first.description.classes), len(second.description.classes)
        what = f"{theirs} classes instead of {ours}" if ours != theirs else "other classes, or in another order"
        raise InputError(f"--against {second.folder}: it has {what}; compare models of one data set")
    for name in _SAME_CLIP:
        ours, theirs = getattr(first.spec, name), getattr(second.spec, name)
        if ours != theirs:
            raise InputError(
                f"--against {second.folder}: its clips have {name}={theirs}, but {first.folder} has {name}={ours}; "
                "compare models that see the same clips"
            )


def _model_name(description: ModelDescription) -> str:
    """A name such as "TSM + W3"."""
    name, attention = description.model["name"], description.model.get("attention")
    base = name.upper() if model_family(name).takes_backbone else name
    return f"{base} + {attention_config(attention).label}" if attention else base


def _tell_apart(explainers: Sequence[Explainer]) -> None:
    """If two models have the same name, add their stages to the names, or "A" and "B"."""
    first, second = explainers
    if first.name == second.name:
        stages = [one.description.stage for one in explainers]
        marks = stages if all(stages) and stages[0] != stages[1] else ["A", "B"]
        for one, mark in zip(explainers, marks, strict=True):
            one.name = f"{one.name} ({mark})"


def _name(video: str) -> str:
    """The file's name, without the query part of an address, which may hold a secret key."""
    return Path(urlsplit(video).path if "://" in video else os.path.abspath(video)).name


def _stems(videos: Sequence[str]) -> list[str]:
    """A unique name for each video's files: the video's own name, with a number if two videos have the same name."""
    return unique_stems([Path(_name(video)).stem for video in videos])


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, then rename it to `path`."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
