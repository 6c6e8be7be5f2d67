"""`w3ray tune`: search a space of recipes; `w3ray tune report`: write a page about what a sweep found."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from w3ray._text import one_line
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._options import AddressOption, OverridesOption
from w3ray.cli._summary import tracking_lines
from w3ray.cli._sweep_display import SweepDisplay
from w3ray.errors import InputError
from w3ray.recipe import Recipe, load_recipe
from w3ray.storage import StoragePath, storage_path, write_text

if TYPE_CHECKING:
    from w3ray.sweep.space import Space


@run_command
def tune(
    space: Annotated[
        str,
        typer.Argument(help="Name of a shipped space (such as w3_paper), or a YAML file; or the word 'report'."),
    ],
    sweep: Annotated[str | None, typer.Argument(help="With 'report': name of the sweep.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", help="Recipe of the trials: name of a shipped recipe, or a YAML file.")
    ] = None,
    overrides: OverridesOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep, instead of the space's.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Points to try, instead of search.trials.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Trials at once, instead of the space's `concurrency`.")
    ] = None,
    address: AddressOption = None,
    storage: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for all results, instead of the recipe's `storage`.")
    ] = None,
    write_best: Annotated[
        Path | None, typer.Option("--write-best", help="Write the best trial as a recipe to this file.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the space, the first points and the resources.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a space. Each trial runs the recipe's whole chain; no stage is trained twice.

    Run the same command again to resume an interrupted sweep.
    """
    if space == "report":
        _report(sweep, storage, as_json)
        return
    if sweep is not None:
        raise InputError(f"unexpected argument {sweep!r}; give the recipe by --pipeline")
    if write_best is not None and not write_best.parent.is_dir():
        raise InputError(f"--write-best {write_best}: no such folder {write_best.parent}")
    recipe = _recipe(pipeline, list(overrides or []), storage)
    found = _changed(space, name, trials, concurrency)
    # Imported late, once space and recipe are valid: this imports torch, Ray and MLflow.
    from w3ray.sweep.plan import plan_sweep
    from w3ray.sweep.sweep import tune as run_sweep

    if dry_run:
        plan = plan_sweep(found, recipe, address=address)
        finish(plan, as_json, _plan_text(plan))
        return
    with SweepDisplay(found) as display:
        try:
            result = run_sweep(found, recipe, address=address, on_status=display.show)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; run the same command again to resume") from None
        display.close()
        display.print_end(result)
    if write_best is not None and result.best is not None:
        _write_recipe(result.best, write_best, result.name, display.say)
    finish(result.document(), as_json)


def _recipe(pipeline: str | None, overrides: list[str], storage: str | None) -> Recipe:
    """What trials are made of."""
    if pipeline is None:
        raise InputError("--pipeline: give the recipe of the trials, such as --pipeline quickstart")
    recipe = load_recipe(pipeline, overrides)
    return recipe if storage is None else recipe.model_copy(update={"storage": storage})


def _changed(space: str, name: str | None, trials: int | None, concurrency: int | None) -> "Space":
    """The space, with what the options change."""
    from w3ray.sweep.space import load_space

    found = load_space(space)
    if name is not None:
        found = found.renamed(name)
    if trials is not None:
        found = found.model_copy(update={"search": found.search.model_copy(update={"trials": trials})})
    if concurrency is not None:
        found = found.model_copy(update={"concurrency": concurrency})
    return found


def _report(sweep: str | None, storage: str | None, as_json: bool) -> None:
    from w3ray.sweep.report import write_report

    if sweep is None:
        raise InputError("which sweep? w3ray tune report NAME --storage DIR")
    root: StoragePath = storage_path(storage or str(Recipe.model_fields["storage"].default))
    files = write_report(str(root), sweep)
    finish({name: str(path) for name, path in files.items()}, as_json, [str(path) for path in files.values()])


def _write_recipe(recipe: Recipe, path: Path, sweep: str, say: Callable[[str], None]) -> None:
    header = [f"# The best trial of sweep {sweep}.", "#", f"# command: w3ray run {shlex.quote(str(path))}", ""]
    write_text(
        path,
        "\n".join(map(one_line, header)) + yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=120),
    )
    say(f"best recipe  {path}")
    say(f"rerun it     w3ray run {shlex.quote(str(path))}")


def _plan_text(plan: dict[str, Any]) -> list[str]:
    """A plan for people: the space as YAML, which can be run, with the rest as comments."""
    resources = {key: value for key, value in plan["resources"].items() if not isinstance(value, dict)}
    lines = [
        *yaml.safe_dump(plan["space"], sort_keys=False, width=120).rstrip().split("\n"),
        "",
        f"# recipe {plan['recipe']['name']}, stages: "
        + ", ".join(f"{stage['name']} ({stage['steps']} steps)" for stage in plan["stages"]),
        f"# {plan['points']} points x {plan['repeats']} runs, {plan['concurrency']} at once",
        "# each: " + ", ".join(f"{key} {value:g}" for key, value in resources.items()),
        *(f"# {line}" for line in tracking_lines(plan["tracking"])),
        *(f"# point {number}: {point}" for number, point in enumerate(plan["first_points"])),
    ]
    return lines
