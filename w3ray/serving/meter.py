"""How many requests did all replicas answer, how fast, and in which batches? `GET /metrics` shows it.

Ray's own metrics are on another port, and each replica would know only its own requests. So replicas report to one
actor, and the counts outlive a replica.
"""

from typing import Any

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_VIDEOS = (1, 2, 4, 8, 16, 32, 64)


class Meter:
    """Counts in the format of Prometheus. A Ray actor."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = CollectorRegistry()

        def histogram(name: str, what: str, buckets: Any = _SECONDS) -> Any:
            return Histogram(name, what, registry=self._registry, buckets=buckets)

        self._requests = Counter(
            "w3ray_requests", "Requests to /predict, by status code.", ["code"], registry=self._registry
        )
        self._bytes = Counter("w3ray_upload_bytes", "Bytes of uploaded videos.", registry=self._registry)
        self._request_s = histogram("w3ray_request_seconds", "From a request's head to its answer.")
        self._decode_s = histogram("w3ray_decode_seconds", "Reading one video.")
        self._score_s = histogram("w3ray_score_seconds", "One batch in the network.")
        self._batch = histogram("w3ray_batch_videos", "Videos in a batch.", _VIDEOS)

    def request(self, code: int, seconds: float) -> None:
        self._requests.labels(str(code)).inc()
        self._request_s.observe(seconds)

    def read(self, upload_bytes: int, seconds: float) -> None:
        self._bytes.inc(upload_bytes)
        self._decode_s.observe(seconds)

    def batch(self, videos: int, seconds: float) -> None:
        self._batch.observe(videos)
        self._score_s.observe(seconds)

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
