"""What can be set of a served model, and which values are allowed?"""

import ipaddress
import math
from dataclasses import dataclass

from w3ray.data.roots import outside
from w3ray.data.views import parse_protocol
from w3ray.errors import InputError
from w3ray.scoring.question import check_average

MAX_WAITING = 256
"""Requests that may wait for a place in a replica. Ray Serve answers 503 to the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of `w3ray serve`.

    Raises: InputError if a value cannot be used; the message names the option.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    """Copies of the model, each in a process of its own."""
    batch: int = 8
    """At most so many videos go through the network together."""
    batch_wait_ms: float = 20.0
    """How long the first video of a batch waits for others."""
    roots: tuple[str, ...] = ()
    """Folders and addresses whose videos may be named by path. Empty: none may."""
    max_mib: float = 200.0
    """The largest upload, MiB."""
    timeout_s: float = 60.0
    """What one request may take, its upload included."""
    top: int = 5
    protocol: str = "1clip-center"
    """The views of a video, as in `w3ray.scoring.evaluate.evaluate`."""
    average: str = "scores"
    """What is averaged over the views: "scores" or "logits"."""
    device: str = "cpu"
    """ "cpu" or "cuda"."""
    cpus: int = 1
    """Processors of each replica: threads of its network, and decoders."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port must be a number from 1 to 65535, not {self.port}")
        if not self.host or any(letter.isspace() or letter in "/[]" for letter in self.host):
            raise InputError(
                f"--host {self.host!r}: not an address; write 127.0.0.1, 0.0.0.0 or a name of this machine"
            )
        for option, count in (("--replicas", self.replicas), ("--batch", self.batch), ("--top", self.top)):
            if count < 1:
                raise InputError(f"{option} must be at least 1, not {count}")
        if not 0 <= self.batch_wait_ms <= 60_000:
            raise InputError(f"--batch-wait-ms must be from 0 to 60000, not {self.batch_wait_ms:g}")
        for name, value in (("--max-mib", self.max_mib), ("--timeout", self.timeout_s)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number above 0, not {value:g}")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"--device must be cpu or cuda, not {self.device!r}")
        parse_protocol(self.protocol)
        check_average(self.average)
        try:
            outside("/", self.roots)
        except InputError as error:
            raise InputError(str(error).replace("data.roots:", "--root", 1)) from error

    @property
    def max_bytes(self) -> int:
        return int(self.max_mib * 2**20)

    @property
    def at_once(self) -> int:
        """Requests that a replica works on at once: one batch in the network, the next one being read."""
        return max(16, 2 * self.batch)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether only processes of the same machine reach the port."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
