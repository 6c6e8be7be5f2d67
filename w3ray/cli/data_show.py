"""`w3ray data show`: a picture of clips as the model sees them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from w3ray._redact import redacted
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._options import OverridesOption
from w3ray.data.manifest import Manifest, read_manifest
from w3ray.errors import InputError
from w3ray.heads import Heads

if TYPE_CHECKING:
    from PIL.Image import Image

    from w3ray.data.contact_sheet import SheetRow
    from w3ray.recipe import Data, Recipe, ResolvedStage

_PICTURES = (".png", ".jpg", ".jpeg")


@run_command
def show(
    manifest: Annotated[str, typer.Argument(help="Manifest with the clips.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Picture to write: .png or .jpg.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe with the settings, a name or a file; default: a recipe's defaults.")
    ] = None,
    overrides: OverridesOption = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split. The recipe's training split (default) is augmented, other splits are not."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of the epoch; default: the first stage.")] = None,
    epoch: Annotated[
        int, typer.Option(min=0, help="Epoch, counted from 0. Each epoch has its own order, frames and crops.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed to use instead of the recipe's.")] = None,
    count: Annotated[
        int, typer.Option(min=1, max=500, help="Number of clips: the epoch's first, or spread over the split.")
    ] = 16,
    as_json: JsonOption = False,
) -> None:
    """Draw clips after sampling and augmentation, exactly as a model gets them: one row per clip, frames in order."""
    if Path(out).suffix.lower() not in _PICTURES:
        raise InputError(f"--out {out}: the name must end in {', '.join(_PICTURES)}")
    settings = _settings(manifest, recipe, overrides or [], seed)
    from w3ray.data.contact_sheet import draw_sheet, evaluation_rows

    data, spec = settings.data, settings.data.clip_spec()
    clips = _clips(manifest, data)
    split = clips.split_named(split or data.train_split)
    chosen = _stage(settings, stage)
    trains = split.casefold() == data.train_split.casefold()
    if trains:
        rows = _training_rows(clips, split, data, chosen, epoch, count)
        when = f"stage {chosen.name}, epoch {epoch}, seed {settings.seed}"
    else:
        rows = evaluation_rows(clips, split, spec, count=count, roots=data.roots)
        when = "as in evaluation"
    how = spec.sampling + (f" sampling, every {spec.stride_frames} frames" if spec.sampling == "dense" else " sampling")
    sheet = draw_sheet(
        rows,
        clips.heads,
        num_frames=spec.num_frames,
        size=spec.size,
        title=f"{Path(clips.location).stem}: {split}",
        subtitle=f"{when}; {spec.num_frames} frames of {spec.size}x{spec.size}, {how}, {spec.decoder}",
    )
    _save(sheet, out)
    unreadable = sum(row.clip is None for row in rows)
    document = {
        "picture": out,
        "split": split,
        **dict.fromkeys(("stage", "epoch", "seed")),
        **({"stage": chosen.name, "epoch": epoch, "seed": settings.seed} if trains else {}),
        "clips": [_shown(row, clips.heads) for row in rows],
    }
    some = f", {unreadable} of them unreadable" if unreadable else ""
    finish(redacted(document), as_json=as_json, text=f"{len(rows)} clips of {split} in {out}{some}")


def _clips(manifest: str, data: "Data") -> Manifest:
    """The manifest, with its folds and its head.

    Raises: InputError if a video is outside the allowed folders, or the decoder cannot be used here.
    """
    from w3ray.data.decoders import require_decoder
    from w3ray.data.roots import check_roots

    require_decoder(data.decoder, in_process=True)
    clips = read_manifest(manifest)
    check_roots(clips, data.roots)
    return data.chosen(clips)


def _training_rows(
    clips: Manifest, split: str, data: "Data", stage: "ResolvedStage", epoch: int, count: int
) -> "list[SheetRow]":
    """The first clips of an epoch. Raises: InputError if the stage has no such epoch."""
    from w3ray.data.contact_sheet import training_rows
    from w3ray.pipeline.prepare import stage_schedule

    if epoch >= stage.train.epochs:
        raise InputError(f"--epoch {epoch}: stage {stage.name} has epochs 0 to {stage.train.epochs - 1}")
    # The order of clips does not depend on validations.
    schedule = stage_schedule(stage, clips.split(split, ["label"])["label"].to_numpy())
    spec = data.clip_spec()
    if stage.train.mix is None:
        return training_rows(clips, split, spec, schedule, epoch=epoch, count=count, roots=data.roots)
    from w3ray.pipeline.mixed_clips import mixed_rows

    # Clips are mixed with others of their microbatch: of the last one, all are needed.
    more = count + schedule.microbatch_size
    rows = training_rows(clips, split, spec, schedule, epoch=epoch, count=more, roots=data.roots)
    return mixed_rows(rows, stage, schedule, epoch)[:count]


def _save(sheet: "Image", out: str) -> None:
    try:
        sheet.save(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror or error})") from error


def _shown(row: "SheetRow", heads: Heads) -> dict[str, Any]:
    """What the picture shows of a clip, as JSON values."""
    clip = row.clip
    return {
        "position": row.position,
        "clip_id": row.clip_id,
        "uri": row.uri,
        "label": heads.class_name(row.shown_label),
        "mirrored": clip is not None and clip.mirrored,
        "reversed": row.reversed,
        "times_s": None if clip is None else [round(float(time_s), 4) for time_s in clip.times_s],
        "box": None if clip is None else clip.box._asdict(),
        "reason": row.reason,
        "mixed_with": None
        if row.mixed_with is None
        else {
            "clip_id": row.mixed_with.clip_id,
            "label": heads.class_name(row.mixed_with.shown_label),
            "share": round(1 - row.share, 4),
        },
    }


def _settings(manifest: str, recipe: str | None, overrides: list[str], seed: int | None) -> "Recipe":
    """The recipe, with this manifest.

    Raises: InputError if the recipe has faults.
    """
    from w3ray.recipe.load import checked, find_recipe, recipe_values

    path = None if recipe is None else find_recipe(recipe)
    values: dict[str, Any] = {"name": "show", "stages": [{"name": "show"}]} if path is None else recipe_values(path)
    data = values.get("data")
    if data is None or isinstance(data, dict):
        values["data"] = {**(data or {}), "manifest": manifest, "synthetic": None}
    if seed is not None:
        values["seed"] = seed
    return checked(values, overrides, "defaults" if path is None else path.name)


def _stage(recipe: "Recipe", name: str | None) -> "ResolvedStage":
    stages = {stage.name: stage for stage in recipe.resolved_stages()}
    if name is not None and name not in stages:
        raise InputError(f"--stage {name}: no such stage; known: {', '.join(stages)}")
    return next(iter(stages.values())) if name is None else stages[name]
