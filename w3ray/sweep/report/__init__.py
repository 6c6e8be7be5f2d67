"""What did a sweep find? A page with a ranking and figures, as one HTML file and as Markdown with separate images.

It uses only the sweep's records, so it can be made at any time, even while the sweep runs.
"""

from pydantic import ValidationError

from w3ray.errors import InputError
from w3ray.recipe import Recipe, stored_recipe
from w3ray.recipe.faults import fault_lines
from w3ray.storage import StoragePath, written_whole
from w3ray.sweep.records import SweepFolder, by_point
from w3ray.sweep.report.findings import Findings
from w3ray.sweep.report.page import as_html, as_markdown
from w3ray.sweep.report.sections import SECTIONS
from w3ray.sweep.space import Space

MARKDOWN, HTML = "report.md", "report.html"


def write_report(storage: str, name: str) -> dict[str, StoragePath]:
    """Write the report of a sweep into its folder.

    Args:
        storage: the storage of the sweep's recipe.
        name: name of the sweep.

    Returns:
        Paths of the page, under "html" and "markdown", and of each figure, under its name.

    Raises:
        InputError: there is no such sweep, or it has no trials yet.
    """
    folder = SweepFolder(storage, name)
    document = folder.document()
    if document is None:
        known = [path.name for path in folder.sweeps.iterdir()] if folder.sweeps.is_dir() else []
        raise InputError(f"no sweep {name!r} in {folder.sweeps}; there: {', '.join(sorted(known)) or 'none'}")
    space = Space.model_validate({**document["space"], "name": name})
    points = by_point(folder.trials())
    if not points:
        raise InputError(f"sweep {name!r}: {folder.directory} has no trials yet")
    try:
        recipe = stored_recipe(document["recipe"])
    except ValueError as error:  # such as a missing plugin
        lines = fault_lines(error, Recipe, ()) if isinstance(error, ValidationError) else [str(error)]
        raise InputError(*(f"{folder.directory / 'sweep.json'}: recipe: {line}" for line in lines)) from error
    found = Findings(space, recipe, points)
    sections = [section for make in SECTIONS if (section := make(found)) is not None]
    files: dict[str, StoragePath] = {}
    with written_whole(folder.report, last=HTML) as local:
        local.mkdir(parents=True, exist_ok=True)
        for section in sections:
            if section.figure is not None:
                section.figure.savefig(local / f"{section.name}.png", dpi=130)
                files[section.name] = folder.report / f"{section.name}.png"
        (local / MARKDOWN).write_text(as_markdown(found, sections), encoding="utf-8")
        (local / HTML).write_text(as_html(found, sections), encoding="utf-8")
    return {"html": folder.report / HTML, "markdown": folder.report / MARKDOWN, **files}
