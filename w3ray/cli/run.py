"""`w3ray run`: the chain of stages of a recipe, from its data to a registered model."""

from typing import Annotated, Any

import psutil
import typer
import yaml

from w3ray._text import one_line
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import write_error
from w3ray.cli._display import Display
from w3ray.cli._options import AddressOption, OverridesOption
from w3ray.cli._summary import tracking_lines
from w3ray.cli._timeline import Timeline
from w3ray.recipe import load_recipe


@run_command
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (such as quickstart), or a YAML file.")],
    overrides: OverridesOption = None,
    address: AddressOption = None,
    storage: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for all results, instead of the recipe's `storage`.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also train the first stage without attention, to see whether attention helps."),
    ] = False,
    profile_start: Annotated[
        bool, typer.Option("--profile-start", help="Also print when each part of the run's starts and ends was done.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved recipe, the stages' states and the resources.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: train its stages in order, evaluate them, register the last one's model.

    Run the same command again to resume an interrupted run. Finished stages are reused.
    """
    timeline = Timeline()
    timeline.reached("Python and w3ray's commands were imported")
    changes = list(overrides or [])
    resolved = load_recipe(recipe, changes)
    if storage is not None:
        resolved = resolved.model_copy(update={"storage": storage})
    if compare:
        resolved = resolved.with_plain()
    # Imported late, once the recipe is valid: this imports torch, Ray and MLflow.
    from w3ray.pipeline import plan_run
    from w3ray.pipeline import run as run_recipe

    timeline.reached("the recipe was read, and the pipeline imported")

    if dry_run:
        plan = plan_run(resolved, address=address)
        finish(plan, as_json, plan_text(plan).split("\n"))
        return
    with Display() as display:
        try:
            # The clock starts with the process, because the user also waits for the imports.
            started_s = psutil.Process().create_time()
            hear = timeline.before(display.handle)
            result = run_recipe(resolved, address=address, on_event=hear, started_s=started_s)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; run the same command again to resume") from None
    more = {"timeline": timeline.rows(started_s)} if profile_start else {}
    if profile_start and not as_json:
        write_error(*timeline.lines(started_s))
    finish(result.document() | more, as_json)


def plan_text(plan: dict[str, Any]) -> str:
    """A plan for people: the recipe as YAML, which can be run, with stages and resources as comments."""
    from w3ray.data.stamps import FileChanges
    from w3ray.events import WeightsTaken

    lines = [*yaml.safe_dump(plan["recipe"], sort_keys=False, width=120).rstrip().split("\n"), ""]
    width = max(len(stage["name"]) for stage in plan["stages"])
    lines += [f"# stage {stage['name']:<{width}}  {stage['state']:<6}  {stage['why']}" for stage in plan["stages"]]
    taken = [WeightsTaken(**stage["weights"]) for stage in plan["stages"] if stage["weights"] is not None]
    lines += [f"# {one.stage}: {one.describe()}" for one in taken]
    changes = FileChanges(changed=tuple(plan["videos"]["changed"]), touched=tuple(plan["videos"]["touched"]))
    lines += [f"# videos: {message}" for message in changes.messages()]
    lines += ["# resources: " + ", ".join(f"{key} {_plain(value)}" for key, value in plan["resources"].items())]
    lines += [f"# {line}" for line in tracking_lines(plan["tracking"])]
    return "\n".join(map(one_line, lines))


def _plain(value: Any) -> str:
    """A number without unneeded digits, or a mapping of numbers."""
    if isinstance(value, dict):
        return " + ".join(f"{amount:g} {name}" for name, amount in value.items()) or "none"
    return f"{value:g}"
