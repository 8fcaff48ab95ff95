"""Count what the service does, in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """Hold the metrics of one service."""

    def __init__(self):
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "segic_requests", "Requests that were answered.", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "segic_request_seconds", "Time of a request.", ["route"], buckets=SECONDS, registry=self._registry
        )
        self._batches = Histogram(
            "segic_batch_images",
            "Images that were segmented without a pause.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Report a value that is read when it is asked for."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def count_batch(self, images: int) -> None:
        """Count images that are segmented together."""
        self._batches.observe(images)

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request by its route, which is known once it was handled."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
