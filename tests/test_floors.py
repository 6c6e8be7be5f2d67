"""The floors of the design: who may import whom, and what `import w3ray` may cost."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPO).stdout


def test_import_contracts_hold():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-logo",
        ],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kept, 0 broken" in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    loaded = python("import sys, w3ray; print([m for m in ('torch', 'ray', 'mlflow', 'decord') if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_the_arithmetic_needs_no_ray_mlflow_or_decoder():
    code = """
import sys
for name in ("ray", "mlflow", "decord", "av"):
    sys.modules[name] = None  # an import of it raises
import w3ray.attention, w3ray.models, w3ray.models.profiling, w3ray.models.bundle, w3ray.evaluation.metrics
import w3ray.training.step, w3ray.training.optimizer, w3ray.training.checkpoint, w3ray.training.losses
print("ok")
"""
    assert python(code).strip() == "ok"


def test_a_recipe_is_checked_without_torch():
    code = """
import sys
from w3ray import InputError
from w3ray.recipe import load_recipe
load_recipe("quickstart")
try:
    load_recipe("quickstart", ["model.attention.spatial_kernel=4"])
except InputError as error:
    print("odd" in str(error), [m for m in ("torch", "torchvision", "ray", "mlflow") if m in sys.modules])
"""
    assert python(code).strip() == "True []"


def test_every_attention_checks_its_options_without_torch():
    code = """
import sys
from w3ray.attention import ATTENTION, attention_config
for kind in ATTENTION:
    try:
        attention_config({"kind": kind, "no_such_option": 1})
    except ValueError as error:
        assert "no_such_option" in str(error)
    else:
        raise AssertionError(kind)
print("ok", "torch" in sys.modules)
"""
    assert python(code).strip() == "ok False"
