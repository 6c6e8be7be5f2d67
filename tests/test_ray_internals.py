"""Each private name of Ray works as w3ray expects, and only one module uses these names."""

import re
import sys
import time
import tokenize
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from patience import PATIENCE_S, wait_until

from w3ray import ray_internals
from w3ray.ray_internals import NAMES, PrivateName

PACKAGE = Path(ray_internals.__file__).parent
HAS = {
    "ControllerCallback": ("after_controller_start",),
    "worker_group": ("placement_group",),
    "serve_replica": ("add_port_to_grpc_server",),
    "ExecutionCallback": ("on_execution_step",),
    "BackpressurePolicy": ("max_task_output_bytes_to_read",),
    "AuthenticationTokenLoader": ("instance", "reset_cache"),
    "ray_constants": ("ENABLE_RAY_CLUSTER", "ENABLE_RAY_CLUSTERS_ENV_VAR"),
    "ray_worker": ("print_to_stdstream",),
}
"""Name -> the attributes of it that are used, besides calling it or checking its type."""
KINDS = {
    "ray_constants": ModuleType,
    "ray_worker": ModuleType,
    "worker_group": ModuleType,
    "serve_replica": ModuleType,
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": str,
    "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR": str,
    "WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR": str,
    "ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY": str,
    "ENABLED_BACKPRESSURE_POLICIES": list,
    "DEFAULT_WORKER_GROUP_START_TIMEOUT_S": (int, float),
}


@pytest.mark.parametrize("name", NAMES)
def test_ray_has_each_name(name):
    found = getattr(ray_internals, name)
    assert all(hasattr(found, one) for one in HAS.get(name, ()))
    assert isinstance(found, KINDS.get(name, Callable))
    assert NAMES[name].purpose
    assert NAMES[name].replacement


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        _ = ray_internals.NoSuchThing


def test_a_package_that_another_thread_imports_is_waited_for(tmp_path, monkeypatch):
    """Python waits for the package named, not for the packages above it."""
    package = tmp_path / "slow_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("import time; time.sleep(1.0); complete = True")
    (package / "inner" / "__init__.py").touch()
    (package / "inner" / "name.py").write_text(
        "import sys; was_complete = hasattr(sys.modules['slow_package'], 'complete')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(NAMES, "name", PrivateName("slow_package.inner.name:was_complete", "a test", "nothing"))
    other = Thread(target=import_module, args=("slow_package",))
    other.start()
    wait_until(lambda: "slow_package" in sys.modules, what="the other thread imports the package")
    assert ray_internals.name
    other.join()


def test_a_trainer_without_the_cleaner_has_ray_trains_other_callbacks():
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    def kinds(trainer: type) -> list[str]:
        made = trainer(lambda: None)
        return [type(one).__name__ for one in made._create_default_callbacks()]

    usual, ours = kinds(DataParallelTrainer), kinds(ray_internals.without_cleaner(DataParallelTrainer))
    assert "PlacementGroupCleanerCallback" in usual
    assert ours == [name for name in usual if name != "PlacementGroupCleanerCallback"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestOnACluster:
    def test_a_streams_coordinator_is_an_actor(self):
        import ray
        from ray.actor import ActorHandle

        (shard,) = ray.data.range(2).streaming_split(1)
        coordinator = ray_internals.stream_coordinator(shard)
        assert isinstance(coordinator, ActorHandle)
        ray.kill(coordinator)

    def test_blocks_are_forgotten(self):
        """The attributes exist. If not, the callback would fail the run."""
        import ray

        from w3ray.data.stream import ForgetBlocks

        kept: list[int] = []

        class Look(ForgetBlocks):
            def on_execution_step(self, executor):
                super().on_execution_step(executor)
                kept.append(sum(len(blocks) for op in executor._topology for blocks in op.get_stats().values()))

        dataset = ray.data.range(8, override_num_blocks=8).map_batches(lambda batch: batch)
        dataset.context.custom_execution_callback_classes = [Look]
        assert dataset.count() == 8 or dataset.materialize().count() == 8
        assert len(list(dataset.iter_rows())) == 8
        assert kept
        assert not any(kept)

    def test_tasks_may_run_ahead(self):
        from ray.data import DataContext

        context = DataContext()
        assert context._max_num_blocks_in_streaming_gen_buffer == 2, "Ray's setting, which was measured"
        ray_internals.buffer_blocks(context, 8)
        assert context._max_num_blocks_in_streaming_gen_buffer == 8
        with pytest.raises(AttributeError, match="DataContext has no"):
            ray_internals.buffer_blocks(object(), 8)

    def test_ray_tells_nobody_of_actors_that_were_killed_on_purpose_and_tells_the_rest(self, capsys):
        import ray
        from ray._private.utils import publish_error_to_driver
        from ray._private.worker import global_worker

        class Decoder:
            def ready(self):
                return True

            def work(self):
                time.sleep(60)

        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Decoder).remote()
        assert ray.get(actor.ready.remote())
        working = actor.work.remote()
        time.sleep(0.5)
        ray.kill(actor)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(working, timeout=PATIENCE_S)
        time.sleep(1.0)  # Ray sends its messages later
        printed = ""

        def told() -> bool:
            nonlocal printed
            publish_error_to_driver("test", f"memory is short {time.monotonic()}", global_worker.gcs_client)
            printed += capsys.readouterr().out
            return "memory is short" in printed

        wait_until(told, what="another message of Ray", every_s=0.2)
        assert "failed" not in printed

    def test_what_has_public_names_is_where_it_was(self):
        import ray

        context = ray.get_runtime_context()
        assert (Path(context.get_temp_dir()) / context.get_session_name() / "logs").is_dir()
        assert context.get_node_labels()["ray.io/node-id"] == context.get_node_id()


PRIVATE = re.compile(
    r"\b(ray\.(\w+\.)*_\w+|_coord_actor|_topology|_global_node|_create_default_callbacks|_data_context)\b"
)


def test_the_door_is_the_only_one():
    """No other module uses private names of Ray, in imports or as an attribute of Ray."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "ray_internals.py":
            continue
        with tokenize.open(path) as file:
            # Without comments and strings, and with each import on one line.
            tokens = [
                one.string
                for one in tokenize.generate_tokens(file.readline)
                if one.type not in (tokenize.COMMENT, tokenize.STRING, tokenize.NL)
            ]
        code = "".join(f"{one} " if re.fullmatch(r"[\w]+", one) else one for one in tokens).replace(" .", ".")
        code = re.sub(r"\bfrom (ray[\w.]*) import ", r"from \1.", code)
        found += [f"{path.relative_to(PACKAGE)}: {match[0]}" for match in PRIVATE.finditer(code)]
    assert found == []
