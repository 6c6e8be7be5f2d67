"""Three small fixed recipes give the same results as ever: a change of structure must not change results.

One trains in processes of its own, as `w3ray run` does, the others in the test's process, as a sweep does: both must
give the bits that `w3ray run` gave.
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
def test_losses_and_final_weights(name, tmp_path):
    runner = None if name == "w3-with-mfr" else in_process
    found, golden = make_weights.train(name, tmp_path, runner), GOLDEN["recipes"][name]
    assert found.keys() == golden.keys()
    for stage in golden:
        assert found[stage]["losses"] == pytest.approx(golden[stage]["losses"], rel=1e-3)
        sums = golden[stage]["sha256"]
        # Another processor adds in another order, so its last digits differ.
        assert found[stage]["sha256"] == sums.get(make_weights.processor(), found[stage]["sha256"])
