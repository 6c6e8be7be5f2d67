"""`w3ray data synth`: generate a data set of motion clips."""

from typing import Annotated

import typer

from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._manifests import manifest_document, manifest_text


@run_command
def synth(
    root: Annotated[str, typer.Argument(help="Folder to make.")],
    clips: Annotated[int, typer.Option(min=1, help="Training clips, over all classes.")] = 320,
    val_clips: Annotated[int | None, typer.Option(help="Clips of val; default: a quarter of --clips.")] = None,
    test_clips: Annotated[
        int | None, typer.Option(help="Clips of the held-out test; default: half of --clips.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Side of the square frames in pixels, even.")] = 64,
    difficulty: Annotated[str, typer.Option(help="easy, medium or hard: how hard the motion is to see.")] = "easy",
    as_json: JsonOption = False,
) -> None:
    """Write real H.264 videos whose classes differ only in motion, and their manifest."""
    from w3ray.data.synthetic import write_motion_dataset

    manifest = write_motion_dataset(
        root, clips=clips, val_clips=val_clips, test_clips=test_clips, seed=seed, size=size, difficulty=difficulty
    )
    finish(manifest_document(manifest), as_json=as_json, text=manifest_text(manifest))
