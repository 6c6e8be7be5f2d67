"""Writes the generated pages of the site, and the generated table of the README.

`make docs` writes the pages. They are not in git, because they only repeat the code, the results and other files.

    python docs/_generate.py             # the pages
    python docs/_generate.py --readme    # the README's table of results, between its markers
"""

import re
import sys
from pathlib import Path

import _reference
import _results

DOCS = Path(__file__).resolve().parent
REPO = DOCS.parent
COPIES = {
    "cluster-setup": REPO / "cluster" / "README.md",
    "benchmarks": REPO / "benchmarks" / "README.md",
    "contributing": REPO / "CONTRIBUTING.md",
    "changelog": REPO / "CHANGELOG.md",
}
"""Page -> the file outside of `docs/` that it is a copy of."""
TABLE = re.compile(
    r"(<!-- results: made by docs/_generate\.py --readme -->\n).*?(<!-- end of results -->)", flags=re.DOTALL
)


def pages() -> dict[str, str]:
    """Path of each generated page below `docs/` -> its text."""
    made = {f"reference/{name}.md": make() for name, make in _reference.PAGES.items()}
    made |= {f"{name}.md": for_site(file.read_text(encoding="utf-8"), file.parent) for name, file in COPIES.items()}
    return made | {"results.md": _results.page()}


def for_site(text: str, folder: Path) -> str:
    """A page's text with its links to copied files turned into links to the copies.

    In a copy, links to pages of `docs/` are turned too, and links to files without a page become plain text.

    Args:
        folder: the folder of the file that the text is from. Its links are relative to it.
    """
    copies = {file: DOCS / f"{name}.md" for name, file in COPIES.items()}

    def link(found: re.Match[str]) -> str:
        label, address = found[1], found[2]
        path, _, anchor = address.partition("#")
        if "://" in address or not path:
            return found[0]
        file = (folder / path).resolve()
        page = copies.get(file, file)
        if page == file and folder.is_relative_to(DOCS):
            return found[0]
        if not page.is_relative_to(DOCS):
            return label
        return f"[{label}](/{page.relative_to(DOCS)}{'#' + anchor if anchor else ''})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def with_results(readme: str) -> str:
    """The README's text with today's table of results."""
    assert TABLE.search(readme), "the README has lost the markers of its table of results"
    return TABLE.sub(lambda found: f"{found[1]}\n{_results.readme_table()}\n\n{found[2]}", readme)


def write(path: Path, text: str) -> None:
    """Write a file only if its text is new, so that Sphinx reads only what changed."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main(words: list[str]) -> None:
    if words == ["--readme"]:
        readme = REPO / "README.md"
        write(readme, with_results(readme.read_text(encoding="utf-8")))
    else:
        for name, text in pages().items():
            write(DOCS / name, text)


if __name__ == "__main__":
    main(sys.argv[1:])
