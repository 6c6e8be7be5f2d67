"""Plugins on a cluster of several nodes: each process has them, although no node sees the driver's files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_cluster import SmallCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPO = Path(__file__).parents[2]

PART = '''"""A loss and a sampler; each process that imports this says so."""

import json
import os
import sys

import ray
import torch.nn.functional as F

from w3ray.data.clip_sampling import SAMPLERS
from w3ray.training.losses import LOSSES, LossKind


class Focal:
    needs_teacher = False

    def __call__(self, inputs):
        log_p_B = -F.cross_entropy(inputs.logits_BK.float(), inputs.labels_B, reduction="none")
        return (-((1 - log_p_B.exp()) ** 2) * log_p_B).sum()


LOSSES.add("focal", LossKind(Focal))
SAMPLERS.add("first", lambda frames, samples, stride, rng: __import__("numpy").arange(samples).clip(max=frames - 1))

if ray.is_initialized():
    where = ray.get_runtime_context()
    mark = {"node": where.get_node_id(), "actor": bool(where.get_actor_id()), "folder": os.getcwd(), "file": __file__,
            "there": os.path.exists(__file__)}
    with open(MARKS, "a") as file:
        file.write(json.dumps(mark) + "\\n")
'''

DRIVER = """
import sys
from pathlib import Path
from w3ray.cluster.connect import connect, disconnect
from w3ray.errors import InputError
from w3ray.pipeline import run
from w3ray.cluster.connection import Connection
from w3ray.plugins import Shipment
from w3ray.recipe import load_recipe

recipe = load_recipe(sys.argv[1])
Path(recipe.plugins[0]).unlink()  # no node could read it
connection = Connection(sys.argv[2])
connection.nodes()
try:
    connection.require(Shipment(files={"/a.py": "1 / 0"}, modules=(), parts={}))
except InputError as error:
    print("REFUSED", error)
try:
    connection.require(Shipment(files={}, modules=("no_such_module",), parts={}))
except InputError as error:
    print("REFUSED", error)
connection.close()
result = run(recipe, address=sys.argv[2])
print("STAGES", *(stage.state for stage in result.stages))
"""


@pytest.fixture
def cluster(tmp_path):
    """A head without CPUs, one node that decodes and one that trains, each in its own folder."""
    cluster = SmallCluster(tmp_path)
    try:
        for kind in ("decode", "trainer"):
            (tmp_path / kind).mkdir()
            cluster.add(2 if kind == "decode" else 1, tmp_path / kind, **{kind: 2})
        yield cluster
    finally:
        cluster.close()


def test_a_file_beside_the_recipe(cluster, motion_manifest, tmp_path):
    marks = tmp_path / "marks.jsonl"
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "my_part.py").write_text(PART.replace("MARKS", repr(str(marks))))
    recipe = {
        "name": "mine",
        "storage": str(tmp_path / "runs"),
        "plugins": ["./my_part.py"],
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32, "sampling": "first"},
        "model": {"backbone": "resnet_small"},
        "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 4},
        "stages": [{"name": "one", "loss_weights": {"cross_entropy": 0.0, "focal": 1.0}}],
        "resources": {"worker_resources": {"trainer": 1}, "decoder_resources": {"decode": 1}},
        "tracking": {"enabled": False},
    }
    (recipes / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "recipes/recipe.yaml", cluster.address],
        env={**cluster.env, "PYTHONPATH": str(REPO)}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "STAGES run" in done.stdout, done.stdout + done.stderr
    decode, train = (cluster.node_id(node) for node in cluster.nodes[1:])
    found = [json.loads(line) for line in marks.read_text().splitlines()]
    assert {mark["node"] for mark in found} == {decode, train}
    for node in (decode, train):  # a process of the stage, besides the one that checked the plugin
        assert any(mark["actor"] for mark in found if mark["node"] == node)
    assert {(mark["file"], mark["there"]) for mark in found} == {(str(recipes / "my_part.py"), False)}
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 2
    assert "/a.py: raised in line 1 when it was imported: ZeroDivisionError: division by zero" in refused[0]
    assert "no_such_module: there is no module no_such_module; install its package here" in refused[1]
