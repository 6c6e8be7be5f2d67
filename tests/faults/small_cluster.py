"""A Ray cluster of several nodes on this machine: real `ray start` processes, one raylet per node."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from patience import wait_until

RAY = str(Path(sys.executable).with_name("ray"))
_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Sections that Ray's autoscaler requires."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Node:
    """One node: `ray start --block` and its descendants."""

    def __init__(self, arguments: list[str], env: Mapping[str, str], log: Path, folder: Path | None = None) -> None:
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [RAY, "start", "--block", *arguments], env=dict(env), stdout=output, stderr=output,
                start_new_session=True, cwd=folder,
            )  # fmt: skip

    def raylet(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() == "raylet":
                        return process
        return None

    def holds(self, process: psutil.Process) -> bool:
        """Whether a process runs on this node."""
        raylet = self.raylet()
        return raylet is not None and raylet.pid in [parent.pid for parent in process.parents()]

    def kill(self) -> None:
        """End the node and all its processes at once, as if it lost power."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        for process in [*below, psutil.Process(self.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        self.process.wait()


_STARTS = 3
"""Beside other load a node may not start within the 30 s that Ray gives it. Then it is started again."""


class SmallCluster:
    """Head and nodes. `close` ends them. Drivers need the environment `env`."""

    def __init__(
        self,
        folder: Path,
        *,
        object_store_mb: int = 200,
        head_cpus: int = 0,
        node_types: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.folder, self._store = folder, object_store_mb
        self.port = free_port()
        self.env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        # Ray checks for the end of a node as often as a test needs, so a dead node is noticed soon.
        self.env |= {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_health_check_period_ms": "1000"}
        self.env |= {"RAY_health_check_failure_threshold": "5", "RAY_health_check_initial_delay_ms": "1000"}
        # Variables that a local cluster of this process set: see `w3ray.cluster.connect`.
        for name in ("RAY_ADDRESS", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
            self.env.pop(name, None)
        self.nodes: list[Node] = []
        head = ["--head", f"--port={self.port}", "--include-dashboard=false", "--dashboard-agent-listen-port=0"]
        if node_types is not None:
            self.env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            head.append(f"--autoscaling-config={self._autoscaling(node_types)}")
        self.head = self._node([*head, f"--num-cpus={head_cpus}"])
        assert self._wait(1, self.head), (folder / "nodes.log").read_text()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, cpus: int, folder: Path | None = None, **resources: float) -> Node:
        """Add a node with custom resources. Its processes have `folder` as their current folder."""
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}", f"--resources={json.dumps(resources)}"]
        before = len([one for one in self.nodes if one.process.poll() is None])
        for _ in range(_STARTS):
            node = self._node([*arguments, "--dashboard-agent-listen-port=0"], folder)
            if self._wait(before + 1, node):
                return node
            self.nodes.remove(node)
        raise AssertionError(f"the node did not start: {(self.folder / 'nodes.log').read_text()}")

    def node_id(self, node: Node) -> str:
        """Ray's id of a node."""
        raylet = node.raylet()
        assert raylet is not None
        return next(arg.partition("=")[2] for arg in raylet.cmdline() if arg.startswith("--node_id="))

    def announce_end(self, node: Node, *, seconds: int) -> None:
        """Tell Ray that a node will be taken away, like a cloud's spot notice."""
        subprocess.run(
            [RAY, "drain-node", f"--address={self.address}", f"--node-id={self.node_id(node)}",
             "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot",
             f"--deadline-remaining-seconds={seconds}"],
            env=self.env, check=True, capture_output=True, text=True,
        )  # fmt: skip

    def _autoscaling(self, node_types: Mapping[str, Mapping[str, float]]) -> Path:
        """Settings of Ray's autoscaler, whose "cloud" starts nodes on this machine. At first there is none."""
        kinds = {
            name: {"resources": {**resources, "object_store_memory": self._store * 2**20}, "node_config": {},
                   "min_workers": 0, "max_workers": 4}
            for name, resources in node_types.items()
        }  # fmt: skip
        settings = {
            "cluster_name": "small",
            "max_workers": 8,
            "upscaling_speed": 20.0,
            "idle_timeout_minutes": 5,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {**kinds, "head": {"resources": {}, "node_config": {}, "max_workers": 0}},
            "head_node_type": "head",
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            **{name: [] for name in _COMMANDS},
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(settings))
        return path

    def close(self) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.kill()

    def _node(self, arguments: list[str], folder: Path | None = None) -> Node:
        node = Node(
            [*arguments, f"--object-store-memory={self._store * 2**20}", "--disable-usage-stats"],
            self.env, self.folder / "nodes.log", folder,
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def _wait(self, count: int, node: Node) -> bool:
        """Wait until `count` nodes are alive. False if `node` ended before."""
        code = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
        )
        errors = ""

        def alive_or_ended() -> bool:
            nonlocal errors
            if node.process.poll() is not None:
                return True
            asked = subprocess.run(
                [sys.executable, "-c", code, self.address], env=self.env, capture_output=True, text=True
            )
            errors = asked.stderr
            return asked.returncode == 0 and asked.stdout.strip().endswith(str(count))

        wait_until(alive_or_ended, every_s=0.5, what=lambda: (self.folder / "nodes.log").read_text() + errors)
        return node.process.poll() is None
