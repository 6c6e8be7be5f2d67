"""A small served model for tests, and requests to it."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from w3ray.data.clip import ClipSpec
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model

CLASSES = ("up", "down", "left", "right")


def write_small_model(folder: Path) -> str:
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(CLASSES)}
    torch.manual_seed(0)
    clip = asdict(ClipSpec(num_frames=4, size=32))
    about = ModelDescription(model=arguments, clip=clip, classes=CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    write_model(folder, build_model(**arguments), about)
    return str(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(
    url: str, body: bytes | None = None, kind: str | None = None, *, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Status and document of an answer; the text if it is not JSON."""
    sent = {**({} if kind is None else {"Content-Type": kind}), **(headers or {})}
    request = urllib.request.Request(url, body, sent, method="GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            status, text, said = reply.status, reply.read().decode(), reply.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        status, text, said = error.code, error.read().decode(), error.headers["Content-Type"]
    return status, json.loads(text) if said == "application/json" else text


def form(fields: Mapping[str, str], file: bytes | None, name: str = "clip.mp4") -> tuple[bytes, str]:
    """The body and the type of a form, as curl sends it."""
    parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    if file is not None:
        head = f'Content-Disposition: form-data; name="video"; filename="{name}"\r\nContent-Type: video/mp4\r\n\r\n'
        parts.append(head.encode() + file)
    body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    return body, "multipart/form-data; boundary=edge"


def path_body(path: object, **more: Any) -> tuple[bytes, str]:
    return json.dumps({"path": str(path), **more}).encode(), "application/json"


def figure(metrics: str, name: str) -> float:
    """The value of a line of /metrics; 0.0 if it is not there yet."""
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{name} "))
