"""How does a YAML file become a space?"""

from pathlib import Path

from pydantic import ValidationError

from w3ray._nearest import did_you_mean
from w3ray.errors import InputError
from w3ray.recipe.faults import fault_lines
from w3ray.recipe.load import read_yaml
from w3ray.sweep.space.space import Space

TUNE_SPACES = Path(__file__).resolve().parents[2] / "_tune_spaces"
"""The shipped spaces: a link to `tune_spaces/` in a checkout, a copy in a wheel."""


def known_spaces() -> dict[str, Path]:
    """The shipped spaces, name -> file."""
    return {path.stem: path for path in sorted(TUNE_SPACES.glob("*.yaml"))}


def load_space(name_or_path: str | Path) -> Space:
    """Load the space from a YAML file, or a shipped space by name.

    Raises:
        InputError: the space does not exist or is invalid; one line for each fault, all at once.
    """
    path = _find(name_or_path)
    values = {"name": path.stem, **read_yaml(path)}
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        raise InputError(*(f"{path.name}: {line}" for line in fault_lines(error, Space, ()))) from None


def _find(name_or_path: str | Path) -> Path:
    text, known = str(name_or_path), known_spaces()
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise InputError(
                f"{path}: {what}; give the path of a space file, or the name of a space: {', '.join(known)}"
            )
        return path
    if text not in known:
        raise InputError(f"unknown space {text!r}; {did_you_mean(text, known)}known: {', '.join(known) or 'none'}")
    return known[text]
