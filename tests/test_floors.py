"""The layers of the design: which module may import which, and the cost of `import w3ray`."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

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


HEAVY = ("torch", "torchvision", "torch._dynamo", "ray.data", "ray.train", "pandas", "mlflow")
"""Packages whose import costs each process half a second of processor time to four seconds."""


@pytest.mark.parametrize(
    ("what", "code", "expected"),
    [
        ("the queue of events", "import w3ray.runtime.handles, w3ray.events", []),
        ("the controller of a stage", "import w3ray.runtime.cluster_stage", ["ray.data", "ray.train", "pandas"]),
        ("decoders and readers", "import w3ray.data.stream", ["ray.data", "pandas"]),
        (
            "the coordinator of an evaluation",
            "import w3ray.data.stream, w3ray.scoring.scorer_actor, w3ray.scoring.items",
            ["ray.data", "pandas"],
        ),
        (
            "scorers, and the end of a stage",
            "from w3ray.models import build_model; import w3ray.evaluation.scorer, w3ray.pipeline.complete; "
            "build_model('tsm', backbone='resnet_small', num_classes=2, attention={'kind': 'w3'})",
            ["torch"],
        ),
    ],
)
def test_each_process_imports_only_what_it_needs(what: str, code: str, expected: list[str]):
    """torchvision imports torch's compiler and so takes as long as torch: only networks made of its parts need it."""
    loaded = python(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == str(expected), what


def test_a_training_worker_does_not_load_the_compiler(tmp_path: Path):
    """torch's own optimizers import its compiler, which takes each worker as long as the import of torch."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, "tests/training")
import w3ray.runtime.worker, w3ray.runtime.building
from training_parts import batch, run_microbatches, small_model, training_step
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
for kind in ("sgd", "adamw"):
    step = training_step(small_model(0), kind=kind, clip_grad_norm=1.0)
    for number in range(2):
        run_microbatches(step, *batch(4), [[0, 1], [2, 3]], normalizer=4)
        step.update(0.1)
    folder = Path({str(tmp_path)!r}) / kind
    save_checkpoint(folder, model=step.model, optimizer=step.optimizer, step_state=step, meta={{}})
    load_checkpoint(folder, model=step.model, optimizer=step.optimizer, step_state=step)
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python(code).strip() == "['torch', 'ray.data', 'ray.train', 'pandas']"


def test_importing_the_package_loads_nothing_heavy():
    loaded = python("import sys, w3ray; print([m for m in ('torch', 'ray', 'mlflow', 'decord') if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_the_arithmetic_needs_no_ray_mlflow_or_decoder():
    code = """
import sys
from collections.abc import Collection, Iterator, Mapping
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
from collections.abc import Collection, Iterator, Mapping
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
from collections.abc import Collection, Iterator, Mapping
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


def modules() -> dict[str, ast.Module]:
    """Each module of the package, by its dotted name, as a syntax tree."""
    found = {}
    for path in sorted((REPO / "w3ray").rglob("*.py")):
        name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported_at_once(tree: ast.Module, known: Collection[str]) -> Iterator[str]:
    """The modules of the package that importing a module imports: not those in functions or only for types."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from [one for one in (name, node.module) if one in known][:1]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def circle(imports: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that import each other in a circle: each imports the next, the last imports the first. []: no circle."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in imports[name]:
            if found := follow(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in imports if (found := follow(name, []))), [])


def test_a_circle_is_found():
    assert circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d"]


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    assert len(known) > 200
    assert circle({name: set(imported_at_once(tree, known)) - {name} for name, tree in known.items()}) == []


MOST_LINES, MOST_FUNCTION_LINES = 400, 60
REASON = "# Long: "
"""Words that a longer file or function must have in its first lines."""


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, because documentation of arguments must not count as code."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def too_long(name: str, text: str) -> list[str]:
    lines, tree = text.splitlines(), ast.parse(text)
    found = []
    if len(lines) > MOST_LINES and not any(line.startswith(REASON) for line in lines[:30]):
        found.append(f"{name}: {len(lines)} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and own_lines(node) > MOST_FUNCTION_LINES:
            head = lines[node.lineno - 1 : node.body[1 if ast.get_docstring(node) else 0].lineno]
            if not any(line.strip().startswith(REASON) for line in head):
                found.append(f"{name}: {node.name}: {own_lines(node)} lines")
    return found


def test_what_is_too_long_is_found_and_may_say_why():
    body = "".join(f"    x{number} = {number}\n" for number in range(MOST_FUNCTION_LINES))
    assert too_long("a", f"def f():\n{body}") == [f"a: f: {MOST_FUNCTION_LINES + 1} lines"]
    assert too_long("a", f'def f():\n    """What\n    it does.\n    """\n{body.partition(chr(10))[2]}') == []
    assert too_long("a", f"def f():\n    # Long: one table.\n{body}") == []
    many = "x = 1\n" * MOST_LINES
    assert too_long("a", f'"""What."""\n{many}') == [f"a: {MOST_LINES + 1} lines"]
    assert too_long("a", f'"""What."""\n# Long: one table.\n{many}') == []


def test_files_and_functions_are_short_or_say_why_not():
    texts = {str(path.relative_to(REPO)): path.read_text("utf-8") for path in (REPO / "w3ray").rglob("*.py")}
    assert [line for name in sorted(texts) for line in too_long(name, texts[name])] == []


BY_HAND = {"os.fsync", "os.rename", "os.replace", "shutil.move", "shutil.rmtree"}


def test_files_take_their_place_and_go_by_way_of_storage_alone():
    found = [
        f"{name}: {ast.unparse(node.func)}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in BY_HAND and not name.startswith("w3ray.storage.")
    ]
    assert found == []
