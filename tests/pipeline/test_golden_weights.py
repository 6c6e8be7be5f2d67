"""Three small fixed recipes give the same results as ever: a change of structure must not change results.

They were made in processes of their own, as `w3ray run` does. Here they train in the test's process, as a sweep does,
and must give the same bits; `test_chain.py` compares the two ways, too.
"""

import importlib.util
import json
from pathlib import Path

import pytest
from in_process import in_process

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

SCRIPT = Path(__file__).parent.parent / "goldens" / "make_weights.py"
_spec = importlib.util.spec_from_file_location("make_weights", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
make_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_weights)
GOLDEN = json.loads(make_weights.FILE.read_text())


@pytest.mark.parametrize("name", make_weights.RECIPES)
@pytest.mark.parametrize("runner", [in_process, pytest.param(None, marks=pytest.mark.slow)], ids=["trial", "run"])
def test_losses_and_final_weights(name, runner, tmp_path):
    found, golden = make_weights.train(name, tmp_path, runner), GOLDEN["recipes"][name]
    assert found.keys() == golden.keys()
    for stage in golden:
        assert found[stage]["losses"] == pytest.approx(golden[stage]["losses"], rel=1e-3)
        sums = golden[stage]["sha256"]
        # Another processor adds in another order, so its last digits differ.
        assert found[stage]["sha256"] == sums.get(make_weights.processor(), found[stage]["sha256"])
