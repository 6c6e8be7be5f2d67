"""What can one do with a trained model, from Python? `w3ray.predict`, `evaluate`, `explain` and `load_model`.

These are the commands of the same names, as functions. A model is a folder, the folder of its stage, or a name in
MLflow: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID/STAGE`. What is heavy is imported when it is used.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from w3ray.errors import InputError, RunError

if TYPE_CHECKING:
    from w3ray.explaining import ExplainedVideos
    from w3ray.scoring.evaluate import Evaluated
    from w3ray.scoring.live import LiveScorer
    from w3ray.scoring.predict import Prediction
    from w3ray.scoring.trained_model import TrainedModel

Location = str | os.PathLike[str]
"""A path, or the address of something in object storage or in MLflow."""


def predict(
    model: Location,
    videos: Location | Sequence[Location] = (),
    *,
    manifest: Location | None = None,
    split: str | None = None,
    top: int = 5,
    protocol: str = "1clip-center",
    average: str = "scores",
    boxes: Location | None = None,
    bank: Location | None = None,
    threshold: float | Location | None = None,
    roots: Sequence[Location] | None = None,
    address: str | None = None,
    tracking: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list["Prediction"]:
    """Predict the classes of videos. Up to 32 videos are scored in this process, more on a Ray cluster.

    Args:
        model: a folder, the folder of a stage, or a name in MLflow.
        videos: one or several: files, folders (with all videos below them), patterns such as `clips/*.mp4`, or
            `s3://...` files and folders.
        manifest, split: predict the clips of a manifest, or of one of its splits, instead.
        top: how many of the best classes to return.
        protocol: views of a clip, as in `evaluate`.
        average: what is averaged over views: "scores" or "logits".
        boxes: file of boxes, for a model that needs them.
        bank: folder of a bank of the videos, for a model that reads one.
        threshold: of a multi-label model: `classes` of an answer are those with at least this score. A number from 0 to
            1, or the folder of a finished evaluation, as in `evaluate`. None: 0.5.
        roots: folders that the videos must be in; None: anywhere.
        address: of a Ray cluster; None: a local one, if it is needed.
        tracking: address of MLflow, for a model by its name. None: `MLFLOW_TRACKING_URI`, else the MLflow of `runs/`.
        on_progress: called with (videos done, all videos), in this thread.

    Returns:
        One for each video, in the order of their names. A video that cannot be read has a `reason` and no `top`.

    Raises:
        InputError: an argument cannot be used: no such model, no video that matches, an unknown protocol, ...
    """
    from w3ray.scoring.predict import predict as run

    total = 0

    def start(count: int) -> None:
        nonlocal total
        total = count

    found = []
    with _in_words_of_python(predict), _opened([model], tracking) as (one,):
        predictions = run(
            one.folder, _paths(videos), manifest=_path(manifest), split=split, top=_whole("top", top),
            protocol=protocol, average=average, address=address, roots=None if roots is None else _paths(roots),
            boxes=_path(boxes), bank=_path(bank), threshold=_threshold(threshold), on_start=start,
        )  # fmt: skip
        with closing(predictions):
            for prediction in predictions:
                found.append(prediction)
                if on_progress is not None:
                    on_progress(len(found), total)
    return found


def evaluate(
    models: Location | Sequence[Location],
    manifest: Location,
    *,
    flow_manifest: Location | None = None,
    split: str = "val",
    fold: int | None = None,
    folds: int | None = None,
    protocol: str = "1clip-center",
    average: str = "scores",
    weights: Sequence[float] = (),
    boxes: Location | None = None,
    banks: Sequence[Location] = (),
    combine: bool = False,
    prior: str | None = None,
    threshold: float | Location | None = None,
    storage: Location = "runs",
    address: str | None = None,
    roots: Sequence[Location] | None = None,
    max_failed_share: float = 0.01,
    tracking: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Evaluated":
    """Score every clip of a split once, on a Ray cluster, and write a report. A second call reuses finished scores.

    Args:
        models: one, or several that form an ensemble: folders, folders of stages, or names in MLflow.
        manifest: of the clips. It must have the models' classes, in the same order.
        tracking: address of MLflow, for models by their names. None: `MLFLOW_TRACKING_URI`, else the MLflow of
            `storage`.
        flow_manifest: the same clips as optical flow, for the models that read flow.
        split: name of the split.
        fold, folds: divide train and val again by group, as `data.fold` and `data.folds` did for the run. Then val
            holds the clips that the run did not train on. None: the manifest's own splits.
        protocol: views of a clip: `1clip-center`, `2clip-center`, `2clip-full-res`, `3crop-2clip`, `10crop-2clip`, or
            with other numbers of clips.
        average: what is averaged over views: "scores" or "logits".
        weights: of the models in the mean of their scores, one for each; (): they count the same.
        boxes: file of boxes of the clips, for the models that need them.
        banks: folders of banks of the videos; each model that reads one takes that of its kind.
        combine: two models, each with the classes of one of the clips' two heads, such as verbs and nouns.
        prior: with `combine`: a split of the manifest, or MANIFEST:SPLIT, whose pairs of classes weigh the actions.
        threshold: of multi-label models: a number from 0 to 1, or the folder of a finished evaluation, for each class's
            threshold with the highest F1 there. None: 0.5.
        storage: evaluations are kept in its folder `evaluations/`.
        address: of a Ray cluster; None: a local one, if clips are left to score.
        roots: folders that the videos must be in; None: anywhere.
        max_failed_share: fail if a larger share of the clips cannot be read.
        on_progress: called with (clips done, all clips), summed over the models.

    Returns:
        The metrics, and where scores and report are.

    Raises:
        InputError: an argument cannot be used.
        RunError: too many clips cannot be read.
    """
    from w3ray.scoring.evaluate import evaluate as run

    given = _paths(models)
    with _in_words_of_python(evaluate), _opened(given, tracking, os.fspath(storage)) as found:
        return run(
            [one.folder for one in found], os.fspath(manifest), flow_manifest=_path(flow_manifest), split=split,
            fold=fold, folds=folds, protocol=protocol, average=average, storage=os.fspath(storage), address=address,
            roots=None if roots is None else _paths(roots), max_failed_share=max_failed_share,
            on_progress=on_progress, names=[one.name for one in found], weights=weights, boxes=_path(boxes),
            banks=_paths(banks), combine=combine, prior=prior, threshold=_threshold(threshold),
        )  # fmt: skip


def explain(
    model: Location,
    videos: Location | Sequence[Location],
    *,
    out: Location = "explained",
    against: Location | None = None,
    true: str | None = None,
    top: int = 5,
    boxes: Location | None = None,
    banks: Sequence[Location] = (),
    tracking: str | None = None,
) -> "ExplainedVideos":
    """Draw what a model's attention looks at: for each video a strip, the stages, and a film.

    Args:
        model: with attention: a folder, the folder of a stage, or a name in MLflow.
        videos: one or several files.
        tracking: address of MLflow, for a model by its name. None: `MLFLOW_TRACKING_URI`, else the MLflow of `runs/`.
        out: folder for the pictures and films. It is made if it does not exist.
        against: a second model of the same classes and clips, shown beside the first. If it has no masks, its Grad-CAM
            is shown.
        true: the videos' class, if known.
        top: how many of the best classes are in the answer.
        boxes: file of boxes of the videos, for models that need them.
        banks: folders of banks of the videos, for models that read one.

    Returns:
        For each video the files, and each model's scores and masks; and what the gates did over all videos.

    Raises:
        InputError: an argument cannot be used, or `out` cannot be written.
    """
    from dataclasses import replace

    from w3ray.explaining import explain_videos

    paths = _paths(videos)
    if not paths:
        raise InputError("explain: name at least one video")
    models = [model] if against is None else [model, against]
    with _in_words_of_python(explain), _opened(models, tracking) as found:
        first, other = found[0], None if against is None else found[1]
        answer = explain_videos(
            first.folder, paths, out=out, against=None if other is None else other.folder, true=true,
            top=_whole("top", top), boxes=_path(boxes), banks=_paths(banks),
        )  # fmt: skip
        if first.folder != first.name:
            answer = replace(answer, model=first.name)
        if other is not None and other.folder != other.name:
            answer = replace(answer, against=other.name)
    return answer


def load_model(model: Location, *, tracking: str | None = None) -> "TrainedModel":
    """The network of a trained model, for your own program, in evaluation mode on the CPU.

    Args:
        model: a folder, the folder of a stage, or a name in MLflow.
        tracking: address of MLflow, for a model by its name. None: `MLFLOW_TRACKING_URI`, else the MLflow of `runs/`.

    Raises:
        InputError: there is no such model, or it cannot be used.
    """
    from w3ray.scoring.trained_model import trained_model

    with _in_words_of_python(load_model), _opened([model], tracking) as (found,):
        return trained_model(found.folder)


def stream(model: Location, *, top: int = 5, device: str = "cpu", tracking: str | None = None) -> "LiveScorer":
    """Score a live source, frame after frame, with a model that reads only earlier frames: TSN, or TSM trained online.

    Call the answer with one frame after the other, or iterate over its `watch(source)`.

    Args:
        model: a folder, the folder of a stage, or a name in MLflow. It was trained with
            `model.options.shift_mode: online`, and without attention or with one that does not look ahead: CBAM, or W3
            with `causal: true`.
        top: how many of the best classes are in an answer.
        device: where the network runs, such as "cuda".
        tracking: address of MLflow, for a model by its name. None: `MLFLOW_TRACKING_URI`, else the MLflow of `runs/`.

    Raises:
        InputError: there is no such model, or it reads later frames.
    """
    from w3ray.scoring.live import LiveScorer

    trained = load_model(model, tracking=tracking)
    return LiveScorer(trained.network, trained.description, top=_whole("top", top), device=device)


def _opened(locations: Sequence[Location], tracking: str | None, storage: str | None = None) -> Any:
    from w3ray.pipeline.tracked import opened_models

    return opened_models(_paths(locations), tracking, storage)


def _paths(given: Location | Sequence[Location]) -> list[str]:
    """As texts. A single one is a list of one, not of its letters."""
    return [os.fspath(given)] if isinstance(given, str | os.PathLike) else [os.fspath(one) for one in given]


def _path(given: Location | None) -> str | None:
    return None if given is None else os.fspath(given)


def _threshold(given: float | Location | None) -> str | None:
    """As the command takes it: the text of a number, or a path."""
    return None if given is None else str(given) if isinstance(given, int | float) else os.fspath(given)


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


_OPTION = re.compile(r"(?<![\w/-])--([a-z][a-z-]*)")
_PLURALS = {"bank": "banks", "root": "roots", "weight": "weights"}
"""Options that can be repeated, and the arguments that take a list."""


@contextmanager
def _in_words_of_python(function: Callable[..., Any]) -> Iterator[None]:
    """Errors name the arguments of `function`, where those of the command name its options: `top`, not `--top`."""
    known = inspect.signature(function).parameters

    def argument(match: "re.Match[str]") -> str:
        name = match[1].replace("-", "_")
        name = name if name in known else _PLURALS.get(name, name)
        return name if name in known else match[0]

    try:
        yield
    except (InputError, RunError) as error:
        text = str(error)
        if (said := _OPTION.sub(argument, text)) == text:
            raise
        raise type(error)(said) from error
