"""What does a recipe do otherwise than the published one, or wrongly for its data, and what is that known to cost?

`lint` compares a recipe with the closest row of the W3 paper's tables, whose values are those of its shipped recipe,
and looks at the manifest and at finished stages. It reads no video and needs no torch. A rule is one function and one
entry in a table. Where a published value is from, the comment beside it in its recipe says: a rule holds what a
recipe cannot say, which is how much a difference is known to cost.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from w3ray.data.manifest import Manifest, read_manifest
from w3ray.errors import InputError
from w3ray.lint import attention, clips, data, network, training
from w3ray.lint._common import NO_FIGURE, Comparison, Finding, Rule, Severity
from w3ray.lint.published import ROWS, Row, closest_row
from w3ray.recipe import Recipe, load_recipe

PUBLISHED_RULES: Mapping[str, Rule] = {**clips.RULES, **network.RULES, **training.RULES}
"""Rules that compare with the published recipe."""

DATA_RULES: Mapping[str, Rule] = data.RULES
"""Rules about the recipe's own data, whatever was published."""

ATTENTION_RULES: Mapping[str, Rule] = attention.RULES
"""Rules about whether its attention learns, whatever was published."""

IN_EVERY_RECIPE = (
    "the classifier alone has TSM's rate factors 5 and 10, which TSM's code gives to every linear layer, W3's MLP too "
    "(ops/models.py)",
    "weights decay, biases and norms do not, as in TSM (ops/models.py)",
    "the last batch of an epoch is padded and masked; TSM drops it (main.py)",
    "a run's own result is of one clip and the centre crop (W3 4.1); the paper's other protocols are evaluations",
)
"""What no setting changes: where it departs from the published training it does so in each recipe."""

__all__ = [
    "ATTENTION_RULES",
    "DATA_RULES",
    "IN_EVERY_RECIPE",
    "NO_FIGURE",
    "PUBLISHED_RULES",
    "ROWS",
    "Comparison",
    "Finding",
    "LintReport",
    "Row",
    "Severity",
    "lint",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What `lint` found."""

    recipe: str
    row: Row
    same_data: bool
    """Whether the row is of the recipe's own data set; where not, differences from it are notes, never warnings."""
    data_unread: str | None
    """Why rules about the data could not look at the manifest; None: they did."""
    findings: tuple[Finding, ...]
    """Warnings first."""

    def document(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "recipe": self.recipe,
            "compared_with": asdict(self.row),
            "same_data": self.same_data,
            "data_unread": self.data_unread,
            "findings": [asdict(finding) for finding in self.findings],
            "in_every_recipe": list(IN_EVERY_RECIPE),
        }


def lint(recipe: Recipe) -> LintReport:
    """Compare a recipe with the closest published row, and look for what is wrong for its data."""
    manifest, unread = _manifest(recipe)
    row, same_data = closest_row(recipe, manifest)
    comparison = Comparison(recipe=recipe, row=row, published=load_recipe(row.recipe), manifest=manifest)
    findings: list[Finding] = []
    for name, rule in PUBLISHED_RULES.items():
        for finding in rule(comparison):
            findings.append(replace(finding, rule=name, severity=finding.severity if same_data else "note"))
    for name, rule in {**DATA_RULES, **ATTENTION_RULES}.items():
        findings += [replace(finding, rule=name) for finding in rule(comparison)]
    findings.sort(key=lambda finding: finding.severity != "warning")
    return LintReport(recipe=recipe.name, row=row, same_data=same_data, data_unread=unread, findings=tuple(findings))


def _manifest(recipe: Recipe) -> tuple[Manifest | None, str | None]:
    """The manifest of the recipe's data with its folds dealt, or why there is none."""
    data = recipe.data
    try:
        if data.synthetic is not None:
            from w3ray.data.synthetic import motion_manifest

            manifest = motion_manifest("generated", **data.synthetic.model_dump())
        else:
            assert data.manifest is not None, "the recipe was checked"
            manifest = read_manifest(data.manifest)
        if data.fold is not None and data.folds is not None:
            manifest = manifest.with_fold(data.fold, data.folds)
    except InputError as error:
        return None, str(error)
    return manifest, None
