"""The deployment: what does a replica answer to a request?"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from w3ray._format import without_nan
from w3ray._redact import redacted
from w3ray.data.clip import ClipSpec
from w3ray.data.views import Protocol
from w3ray.models.bundle import ModelDescription
from w3ray.plugins import Shipment
from w3ray.scoring.model_files import ModelFiles, description_of, scorer_of
from w3ray.scoring.multi_label import thresholds_of
from w3ray.scoring.predict import told
from w3ray.scoring.question import check_average
from w3ray.serving.decoders import decoders_here
from w3ray.serving.requests import RefusedError, asked_video
from w3ray.serving.settings import Settings

logger = logging.getLogger("ray.serve")  # so that it is in the replica's log

_CLIENT_LEFT = 499  # as nginx counts it; nobody reads the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What every replica gets."""

    name: str
    """The model, as the user named it."""
    files: ModelFiles
    protocol: Protocol
    settings: Settings
    plugins: Shipment
    on_loopback: bool
    """Whether the cluster was started here, so that nothing may listen beyond loopback."""


class Application:
    """A replica: one copy of the model, with decoders of its own.

    Args:
        served: reference to a `Served`.
        meter: the actor of `w3ray.serving.meter.Meter`.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, served: Sequence["ray.ObjectRef[Served]"], meter: Any
    ) -> None:
        import torch

        (reference,) = served
        what: Served = await reference
        if what.on_loopback:
            from w3ray.ray_internals import serve_replica_on_loopback

            serve_replica_on_loopback()
        what.plugins.load()
        self._served, self._settings, self._meter = what, what.settings, meter
        self._description = description_of(what.files)
        torch.set_num_threads(what.settings.cpus)
        self._scorer = scorer_of(
            what.files, what.protocol, check_average(what.settings.average), {}, device=what.settings.device
        )
        self._thresholds = thresholds_of(None, self._description.heads)
        spec = ClipSpec(**self._description.clip)
        self._decoders = decoders_here(what.settings.cpus, spec, what.protocol, what.plugins)
        self._score = self._batched()
        await self._decoders.start()

    async def __call__(self, request: Request) -> Response:
        path = request.scope["path"].rstrip("/") or "/"
        routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/predict": ("POST", self._predict), "/health": ("GET", self._health), "/model": ("GET", self._model),
            "/metrics": ("GET", self._metrics),
        }  # fmt: skip
        if path not in routes:
            return _answer(404, {"error": f"no such address; there are POST /predict, {', '.join(list(routes)[1:])}"})
        method, answer = routes[path]
        if request.method != method and not (request.method == "HEAD" and method == "GET"):
            return _answer(405, {"error": f"{path} takes {method} only"}, {"Allow": method})
        return await answer(request)

    async def _predict(self, request: Request) -> Response:
        started = time.monotonic()
        status, document = await self._predicted(request)
        self._meter.request.remote(status, time.monotonic() - started)
        return _answer(status, document)

    async def _predicted(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The status and the document of an answer, whatever happens."""
        limit_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                return 200, await self._recognised(request, limit.when() or 0.0)
        except RefusedError as refused:
            return refused.status, {"error": refused.reason}
        except TimeoutError:
            return 504, {"error": f"the request took longer than {limit_s:g} s (--timeout)"}
        except ClientDisconnect:
            return _CLIENT_LEFT, {"error": "the client left"}
        except Exception:
            logger.exception("a request failed")
            return 500, {"error": "internal error: see the log of the replica"}

    async def _recognised(self, request: Request, deadline: float) -> dict[str, Any]:
        async with asked_video(request, self._settings) as asked:
            read = await self._decoders.read(asked, deadline)
        self._meter.read.remote(asked.upload_bytes, read.seconds)
        if read.pixels_VTSSC is None:
            raise RefusedError(422, f"{asked.name}: {read.reason}")
        scores_K = await self._score(read.pixels_VTSSC)
        found = told(asked.name, scores_K, self._description.heads, self._settings.top, self._thresholds)
        return found.document()

    def _batched(self) -> Callable[[np.ndarray], Awaitable[np.ndarray]]:
        @serve.batch(max_batch_size=self._settings.batch, batch_wait_timeout_s=self._settings.batch_wait_ms / 1000)
        async def score(videos: list[np.ndarray]) -> list[np.ndarray]:
            started = time.monotonic()
            # In a thread: requests are read meanwhile.
            scores_MK = await asyncio.to_thread(lambda: self._scorer(np.stack(videos)))
            self._meter.batch.remote(len(videos), time.monotonic() - started)
            return list(scores_MK)

        return score

    async def _health(self, request: Request) -> Response:
        return _answer(200, {"status": "ok"})

    async def _model(self, request: Request) -> Response:
        return _answer(200, {"model": self._served.name, **_described(self._description), **self._limits()})

    def _limits(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "protocol": self._served.protocol.name, "average": settings.average, "top": settings.top,
            "max_mib": settings.max_mib, "timeout_s": settings.timeout_s, "paths": bool(settings.roots),
        }  # fmt: skip

    async def _metrics(self, request: Request) -> Response:
        try:
            text = await self._meter.text.remote()
        except RayError:
            return _answer(503, {"error": "the process that counts is gone: start the server again"})
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _described(description: ModelDescription) -> dict[str, Any]:
    heads = {"heads": dict(description.head_sizes)} if len(description.head_sizes) > 1 else {}
    return {
        "classes": list(description.classes), **heads, "multi_label": description.multi_label,
        "clip": dict(description.clip),
    }  # fmt: skip


def _answer(status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(without_nan(redacted(document)), allow_nan=False)
    return Response(text + "\n", status_code=status, headers=headers, media_type="application/json")
