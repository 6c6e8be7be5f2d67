"""Where does a recipe differ from the published one, what is wrong for its data, and what is the known cost?

`lint` compares a recipe with the closest row of the W3 paper's tables. The values of a row are those of its shipped
recipe. `lint` also checks the manifest and finished stages. It reads no video and does not import torch.

A rule is one function and one entry in a table. The comment beside a value in the shipped recipe names its source. A
rule adds what the recipe cannot say: the known cost of a difference.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from w3ray.data.manifest import Manifest, read_manifest
from w3ray.errors import InputError
from w3ray.lint import attention, clips, data, network, regularisation, training
from w3ray.lint._common import NO_FIGURE, Comparison, Finding, Rule, Severity
from w3ray.lint.published import ROWS, Row, closest_row
from w3ray.recipe import Recipe, load_recipe

PUBLISHED_RULES: Mapping[str, Rule] = {**clips.RULES, **network.RULES, **training.RULES}
"""Rules that compare with the published recipe."""

DATA_RULES: Mapping[str, Rule] = data.RULES
"""Rules about the recipe's own data. They do not depend on the published recipe."""

REGULARISATION_RULES: Mapping[str, Rule] = regularisation.RULES
"""Rules about augmentation and regularisation. They know settings of other papers than the published recipe's."""

ATTENTION_RULES: Mapping[str, Rule] = attention.RULES
"""Rules about whether the attention learns. They do not depend on the published recipe."""

IN_EVERY_RECIPE = (
    "only the classifier has TSM's rate factors 5 and 10; TSM's code gives them to every linear layer, so also to W3's "
    "MLP (ops/models.py)",
    "weights have weight decay, biases and norms have none, as in TSM (ops/models.py)",
    "the last batch of an epoch is padded and masked; TSM drops it (main.py)",
    "a run's own result uses one clip and the centre crop (W3 4.1); for the paper's other protocols use w3ray evaluate",
)
"""Facts that no setting changes. They are the same in every recipe, also where they differ from published training."""

__all__ = [
    "ATTENTION_RULES",
    "DATA_RULES",
    "IN_EVERY_RECIPE",
    "NO_FIGURE",
    "PUBLISHED_RULES",
    "REGULARISATION_RULES",
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
    """Whether the row is of the recipe's own data set. If not, differences from it are notes, never warnings."""
    data_unread: str | None
    """Why the manifest could not be read for the rules about data. None: it was read."""
    findings: tuple[Finding, ...]
    """Warnings first."""

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "recipe": self.recipe,
            "compared_with": asdict(self.row),
            "same_data": self.same_data,
            "data_unread": self.data_unread,
            "findings": [asdict(finding) for finding in self.findings],
            "in_every_recipe": list(IN_EVERY_RECIPE),
        }


def lint(recipe: Recipe) -> LintReport:
    """Compare a recipe with the closest published row, and find what is wrong for its data."""
    manifest, unread = _manifest(recipe)
    row, same_data = closest_row(recipe, manifest)
    comparison = Comparison(recipe=recipe, row=row, published=load_recipe(row.recipe), manifest=manifest)
    findings: list[Finding] = []
    for name, rule in PUBLISHED_RULES.items():
        for finding in rule(comparison):
            findings.append(replace(finding, rule=name, severity=finding.severity if same_data else "note"))
    for name, rule in {**DATA_RULES, **REGULARISATION_RULES, **ATTENTION_RULES}.items():
        findings += [replace(finding, rule=name) for finding in rule(comparison)]
    findings.sort(key=lambda finding: finding.severity != "warning")
    return LintReport(recipe=recipe.name, row=row, same_data=same_data, data_unread=unread, findings=tuple(findings))


def _manifest(recipe: Recipe) -> tuple[Manifest | None, str | None]:
    """The manifest of the recipe's data with its folds and its head applied, or the reason why there is none."""
    data = recipe.data
    try:
        if data.synthetic is not None:
            from w3ray.data.synthetic import motion_manifest

            manifest = motion_manifest("generated", **data.synthetic.model_dump())
        else:
            assert data.manifest is not None, "the recipe was checked"
            manifest = read_manifest(data.manifest)
        manifest = data.chosen(manifest)
    except InputError as error:
        return None, str(error)
    return manifest, None
