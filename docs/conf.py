"""Settings of the site: Sphinx with MyST. `make docs` builds it into `build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import _generate

import w3ray

_generate.main([])

project = "w3ray"
copyright = "the w3ray authors, Apache-2.0"
version = release = w3ray.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_*"]
highlight_language = "none"
smartquotes = False  # it turns the -- of options into a dash
# Docstrings write code as `code`, as Markdown does.
default_role = "literal"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"w3ray {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"source_directory": "docs/"}
linkcheck_ignore = [r"https?://"]  # the check of links needs no network


def _links_of_site(app: object, name: str, text: list[str]) -> None:
    """Pages link to files as GitHub does. Some of these files have a copy in the site."""
    if name not in _generate.COPIES:
        text[0] = _generate.for_site(text[0], (_generate.DOCS / name).parent)


def setup(app: object) -> None:
    app.connect("source-read", _links_of_site)  # type: ignore[attr-defined]
