"""Callbacks see each step and each validation, change nothing, and end the run in one line when they fail."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import in_process

from w3ray import _registry
from w3ray.errors import InputError, RunError
from w3ray.events import StepDone, Validated
from w3ray.models import build_model
from w3ray.pipeline import plan_run
from w3ray.plugins import NO_PLUGINS, shipment
from w3ray.recipe import Recipe, load_recipe
from w3ray.runtime.callbacks import Callbacks
from w3ray.runtime.event_channel import LocalChannel
from w3ray.runtime.faults import CallbackFailed, is_hopeless
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.ranks import Ranks
from w3ray.testing import ContractBroken, check_callback
from w3ray.training.callbacks import CALLBACKS, AfterStep
from w3ray.training.checkpoint_files import by_step

WATCH = '''"""A callback that looks at everything, and writes it down."""

import json
import random

import numpy as np
import torch

from w3ray.training.callbacks import CALLBACKS


class Watch:
    def on_step(self, event):
        self.tell(event, losses=dict(event.losses), lr=event.lr, accuracy=event.accuracy, clips=event.clips)

    def on_validation(self, event):
        self.tell(event, split=event.split, metrics=dict(event.metrics), gates=len(event.attention))

    def tell(self, event, **more):
        model = event.model
        more |= {"step": event.step, "epoch": event.epoch, "training": model.training, "workers": event.world_size}
        with open(FILE, "a") as file:
            print(json.dumps(more), file=file)
        torch.rand(3), np.random.rand(), random.random()
        model.eval()(torch.randn(1, 4, 3, 32, 32))  # in evaluation mode, so that norms learn nothing


CALLBACKS.add("watch", Watch)
'''


@pytest.fixture(autouse=True)
def _forgets_plugins() -> Iterator[None]:
    added = {id(table): dict(table._added) for table in _registry._tables}
    yield
    for table in _registry._tables:
        table._added = added.get(id(table), {})


def recipe(manifest: Path, storage: Path, **changes: Any) -> Recipe:
    train = {"epochs": 2, "batch_size": 8, "microbatch_size": 4, "lr": 0.05, "log_every_steps": 2}
    values = {
        "name": "watched",
        "storage": str(storage),
        "data": {"manifest": str(manifest), "num_frames": 4, "size": 32},
        "model": {"backbone": "resnet_small", "dropout": 0.5},
        "train": train | changes.pop("train", {}),
        "stages": [{"name": "one"}],
        "tracking": {"enabled": False},
        **changes,
    }
    return Recipe.model_validate(values)


def watched(tmp_path: Path) -> tuple[str, Path]:
    """A file with the callback `watch`, and the file that this callback writes."""
    seen = tmp_path / "seen.jsonl"
    file = tmp_path / "watch.py"
    file.write_text(f"{WATCH}\nFILE = {str(seen)!r}\n")
    return str(file), seen


def states(result: Any) -> list[bytes]:
    """The model, and each checkpoint with its optimiser."""
    folder = Path(result.stages[-1].model)
    paths = [Path(str(path)) for path in by_step(folder.parent / "checkpoints")]
    files = [file for path in paths for file in sorted(path.glob("*.safetensors"))]
    assert files
    return [(folder / "model.safetensors").read_bytes(), *(file.read_bytes() for file in files)]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_they_see_everything_and_the_bits_are_the_same(motion_manifest, tmp_path):
    file, seen = watched(tmp_path)
    events: list[Any] = []
    looked = recipe(motion_manifest, tmp_path / "looked", plugins=[file], train={"callbacks": ["watch"]})
    result = in_process(looked, events.append)
    plain = in_process(recipe(motion_manifest, tmp_path / "plain"))
    assert result.stages[0].identity == plain.stages[0].identity
    assert states(result) == states(plain)
    assert result.stages[0].metrics == plain.stages[0].metrics
    rows = [json.loads(line) for line in seen.read_text().splitlines()]
    # 24 clips in batches of 8. A validation ends each epoch, and the evaluation the stage.
    assert [(row["step"], row.get("split")) for row in rows] == [
        (1, None), (2, None), (3, None), (3, "val"), (4, None), (5, None), (6, None), (6, "val"), (6, "test"),
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert all(row["training"] == ("losses" in row) and row["workers"] == 1 for row in rows)
    assert all(row["clips"] == 8 for row in rows if "losses" in row)
    assert all(row["gates"] == 4 for row in rows if "split" in row)
    told = {event.step: event for event in events if isinstance(event, StepDone)}
    assert set(told) == {2, 3, 4, 6}, "events come as often as without callbacks"
    steps = {row["step"]: row for row in rows if "losses" in row}
    for step, event in told.items():
        assert steps[step]["losses"] == pytest.approx(event.losses)
        assert (steps[step]["lr"], steps[step]["accuracy"]) == (event.lr, event.accuracy)
    scored = [(event.split, event.step, event.metrics) for event in events if isinstance(event, Validated)]
    assert [(row["split"], row["step"], row["metrics"]) for row in rows if "split" in row] == scored
    # A finished stage is no reason to train again for a new or a changed callback, and none for a lost one.
    for storage, callbacks in (("plain", ["watch"]), ("looked", [])):
        other = recipe(motion_manifest, tmp_path / storage, plugins=[file], train={"callbacks": callbacks})
        assert [stage["state"] for stage in plan_run(other)["stages"]] == ["reuse"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_one_that_raises_ends_the_run_with_its_name(motion_manifest, tmp_path):
    file = tmp_path / "raises.py"
    file.write_text(
        "from w3ray.training.callbacks import CALLBACKS\n\n\nclass Raises:\n"
        "    def on_step(self, event):\n        {}['no\\nsuch key']\n\n\nCALLBACKS.add('raises', Raises)\n"
    )
    with pytest.raises(RunError) as caught:
        in_process(recipe(motion_manifest, tmp_path, plugins=[str(file)], train={"callbacks": ["raises"]}))
    said = "stage one: callback 'raises' raised in on_step after step 1: KeyError: 'no\\nsuch key'"
    assert str(caught.value) == said


class Both:
    """Calls what it is given."""

    act: Callable[[AfterStep], Any]

    def on_step(self, event: AfterStep) -> None:
        type(self).act(event)

    def on_validation(self, event: Any) -> None:
        raise AssertionError("not called")


@contextmanager
def made(*names: str, rank: int = 0) -> Iterator[tuple[Callbacks, Heartbeat]]:
    """The callbacks of one of two workers."""
    channel = LocalChannel()
    heartbeat = Heartbeat(channel, stage="one", rank=rank, world_size=2)
    try:
        yield Callbacks(names, stage="one", ranks=Ranks(rank=rank, world_size=2), heartbeat=heartbeat), heartbeat
    finally:
        channel.close()


def called(act: Callable[[AfterStep], Any], *, rank: int = 0) -> tuple[Any, Heartbeat]:
    """Call a callback after a step. Returns the network, and the heartbeat."""
    CALLBACKS.add("both", type("Both", (Both,), {"act": staticmethod(act)}))
    with made("both", rank=rank) as (callbacks, heartbeat):
        assert callbacks.watch_steps
        model = build_model("tsm", backbone="resnet_small", num_classes=2, attention=None).train()
        callbacks.after_step(
            AfterStep(
                stage="one", step=3, total_steps=6, epoch=0, losses={}, lr=0.1, accuracy=0.0, grad_norm=0.0, clips=8,
                world_size=2, model=model,
            )
        )  # fmt: skip
        return model, heartbeat


def test_a_network_is_put_back_into_its_mode_and_keeps_no_gradient():
    def look(event):
        event.model.eval()
        x_BTCHW = torch.randn(1, 4, 3, 32, 32)
        assert not event.model(x_BTCHW).logits_BK.requires_grad

    model, heartbeat = called(look)
    assert all(module.training for module in model.modules())
    assert heartbeat._doing == "runs on_step of callback 'both'", "what the watchdog says if it hangs"


def forward_in_training(event):
    event.model(torch.randn(1, 4, 3, 32, 32))


def backward(event):
    with torch.enable_grad():
        event.model.eval()(torch.randn(1, 4, 3, 32, 32)).logits_BK.sum().backward()


@pytest.mark.parametrize(
    "act",
    [lambda event: event.model.classifier.weight.mul_(2), forward_in_training, backward],
    ids=["weights", "statistics of norms", "gradients"],
)
def test_one_that_changes_the_network_is_refused(act):
    said = r"^callback 'both' changed the network in on_step after step 3: a callback may only read it"
    with pytest.raises(CallbackFailed, match=said) as caught:
        called(act)
    assert is_hopeless(caught.value), "it would fail again"


def test_only_the_first_worker_calls_them():
    seen: list[int] = []
    called(lambda event: seen.append(event.step), rank=1)
    assert seen == []
    called(lambda event: seen.append(event.step))
    assert seen == [3]


def test_without_callbacks_nothing_is_summed_for_them():
    with made() as (callbacks, _):
        assert not callbacks.watch_steps


def test_one_that_cannot_be_made_or_is_none_is_named():
    class Needs:
        def __init__(self, path):
            pass

        def on_step(self, event):
            pass

    CALLBACKS.add("needs", Needs)
    CALLBACKS.add("late", "pathlib:Path")
    for name, said in (("needs", "raised when it was made: TypeError: .*'path'"), ("late", "Path has neither on_step")):
        with pytest.raises(CallbackFailed, match=f"^callback '{name}'.* {said}"), made(name):
            pass


def test_the_contract_for_tests_calls_it(tmp_path):
    seen: list[str] = []

    class Good:
        def on_step(self, event):
            seen.append(f"step {event.step} of {event.total_steps}")

        def on_validation(self, event):
            seen.append(event.split)

    class Changes:
        def on_validation(self, event):
            event.model.classifier.weight.mul_(2)

    CALLBACKS.add("good", Good)
    CALLBACKS.add("changes", Changes)
    check_callback("good")
    assert seen == [], "a run only looks at it"
    check_callback("good", call=True)
    assert seen == ["step 1 of 2", "step 2 of 2", "val", "test"]
    with pytest.raises(ContractBroken, match=r"^it changes the network: classifier\.weight; a callback may only read"):
        check_callback("changes", call=True)


class TestRecipes:
    def test_an_unknown_name_has_a_hint(self, motion_manifest, tmp_path):
        file, _ = watched(tmp_path)
        with pytest.raises(InputError, match=r"train\.callbacks\.0: unknown callback 'wach'; did you mean 'watch'"):
            load_recipe("quickstart", [f"plugins=[{file}]", "train.callbacks=[wach]"])
        with pytest.raises(InputError, match=r"train\.callbacks: must be a list, got 'watch'"):
            load_recipe("quickstart", [f"plugins=[{file}]", "train.callbacks=watch"])

    def test_a_stage_may_have_its_own(self, tmp_path):
        file, _ = watched(tmp_path)
        changes = [f"plugins=[{file}]", "stages.student.train.callbacks=[watch]"]
        stages = load_recipe("quickstart", changes).resolved_stages()
        assert [stage.train.callbacks for stage in stages] == [(), ("watch",)]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("class A:\n    def on_epoch(self, event): pass\n", r"A has neither on_step\(event\) nor on_validation"),
            ("def A(event): pass\n", r"it must be a class with on_step or on_validation, not <function A"),
        ],
    )
    def test_what_is_no_callback_is_refused(self, tmp_path, text, said):
        file = tmp_path / "a.py"
        file.write_text(f"from w3ray.training.callbacks import CALLBACKS\n{text}CALLBACKS.add('a', A)\n")
        with pytest.raises(InputError, match=f"callbacks: 'a' from {file} is not valid: {said}") as caught:
            load_recipe("quickstart", [f"plugins=[{file}]"])
        assert "\n" not in str(caught.value)

    def test_one_that_breaks_its_contract_is_refused_before_anything_starts(self, motion_manifest, tmp_path):
        file = tmp_path / "a.py"
        file.write_text(
            "from w3ray.training.callbacks import CALLBACKS\n\n\nclass A:\n    def on_step(self): pass\n\n\n"
            "CALLBACKS.add('a', A)\n"
        )
        one = recipe(motion_manifest, tmp_path / "runs", plugins=[str(file)], train={"callbacks": ["a"]})
        with pytest.raises(InputError, match="breaks the contract of its family: on_step must take one argument"):
            plan_run(one)

    def test_its_source_goes_to_the_workers(self, motion_manifest, tmp_path):
        from w3ray.pipeline.prepare import plan_stages, prepare_data

        file, _ = watched(tmp_path)
        one = recipe(motion_manifest, tmp_path / "runs", plugins=[file], train={"callbacks": ["watch"]})
        (item,) = plan_stages(one, prepare_data(one))
        assert set(shipment(one.plugins, item.sources).parts) == {"callbacks/watch"}
        assert "plugins" not in item.determinants
        assert shipment((), item.sources) != NO_PLUGINS
