"""What every benchmark writes with its figures: command, machine, versions, commit.

`gpu.py` runs on a machine with little more than torch, so what another machine may lack is asked for late.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"
W3RAY = Path(sys.executable).with_name("w3ray")


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "accelerator": _accelerator(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _accelerator() -> str | None:
    """The name of the GPU, in a script that has torch loaded. The others compute nothing themselves."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "torchvision", "ray", "mlflow", "decord", "av", "numpy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """The commit of the code that ran, with a mark if there were local changes. "unknown" in a copy without git."""
    if not (REPO / ".git").exists():
        return "unknown"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "w3ray", "pipelines"], cwd=REPO, capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def command_of(script: str, arguments: Sequence[str]) -> str:
    """The command as anyone would type it: without `--work` and its folder, which change no figure."""
    words = list(arguments)
    if "--work" in words:
        place = words.index("--work")
        del words[place : place + 2]
    return " ".join(["python", f"benchmarks/{script}.py", *words])


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, standard deviation (of the sample), minimum, maximum and number of values."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def ratios_to_first(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Medians of seconds and of ratios to the first case, with the least and greatest ratio.

    Args:
        seconds: case -> its seconds, one for each round. Ratios are those within a round.
    """
    first = next(iter(seconds.values()))
    found = {}
    for name, values in seconds.items():
        ratio = [one / other for one, other in zip(values, first, strict=True)]
        found[name] = {
            "seconds": statistics.median(values), "ratio": statistics.median(ratio), "low": min(ratio),
            "high": max(ratio),
        }  # fmt: skip
    return found


def rounded(value: Any, digits: int = 4) -> Any:
    """A copy of `value` with all its floats rounded."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value


def compact_json(value: Any, indent: int = 0) -> str:
    """JSON with `indent=1`, but an object without objects in it is on one line. So a row of figures is one line."""
    line = json.dumps(value)
    if not _holds_objects(value):
        return line
    names = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    inner = [
        " " * (indent + 1) + name + compact_json(one, indent + 1) for name, one in zip(names, _in(value), strict=True)
    ]
    return "\n".join([line[0], ",\n".join(inner), " " * indent + line[-1]])


def _in(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _holds_objects(value: Any) -> bool:
    return any(isinstance(one, dict) or _holds_objects(one) for one in _in(value))


def write_result(name: str, figures: Any, command: str, *, compact: bool = False, folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json`. `compact`: four digits, and one line for each row of figures."""
    document = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "figures": rounded(figures) if compact else figures,
    }
    path = folder / f"{name}.json"
    path.write_text((compact_json(document) if compact else json.dumps(document, indent=1)) + "\n")
    return path


def run_recipe(arguments: Sequence[str], log: Path) -> dict[str, Any]:
    """Run `w3ray run ... --json` in its own process; adds wall-clock seconds and the peak of resident memory.

    Memory is the proportional set size (PSS), summed over the command and all processes that it started: private memory
    plus a share of shared memory. It is sampled every fifteen seconds, because a sample takes a third of a second.
    """
    command = [str(W3RAY), "run", *arguments, "--json"]
    started = time.monotonic()
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = _PeakMemory(process.pid)
        peak.start()
        output, _ = process.communicate()
        peak.done.set()
        peak.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}, see {log}\n{output}")
    document: dict[str, Any] = json.loads(output)
    return {**document, "wall_s": time.monotonic() - started, "peak_memory_gib": peak.gib}


class _PeakMemory(threading.Thread):
    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.done = pid, threading.Event()
        self.gib: float | None = None  # the run ended before the first sample, so it was not measured

    def run(self) -> None:
        import psutil

        while not self.done.wait(15.0):
            total = 0
            for process in self._processes():
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.gib = max(self.gib or 0.0, total / 2**30)

    def _processes(self) -> list[Any]:
        import psutil

        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
