"""Define how much a request may ask of the service and of the page, and bound what is held at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from segic_jax.errors import BusyError, ConfigError


@dataclass(frozen=True)
class Limits:
    """Limit requests; the defaults suit a machine with 8 GB of memory."""

    images: int = 20
    """Images of one request for predictions."""
    references: int = 100
    """Images of one request that makes a context."""
    classes: int = 50
    """Classes of a context."""
    contexts: int = 1000
    """Contexts in the folder."""
    file_megabytes: int = 20
    """Size of one file."""
    request_megabytes: int = 100
    """Size of one request."""
    megapixels: int = 64
    """Pixels of all images of one request together, in millions."""
    pending_images: int = 64
    """Images of all requests that wait or are segmented; more are answered with 429."""
    pending_megapixels: int = 256
    """Their pixels together, in millions; more are answered with 429."""
    seconds: int = 60
    """Time for one request after it has arrived."""
    upload_seconds: int = 30
    """Time in which a request must arrive."""

    @property
    def request_bytes(self) -> int:
        """Return the size of one request at most."""
        return self.request_megabytes << 20

    def __post_init__(self):
        for item in fields(self):
            if getattr(self, item.name) < 1:
                name = item.name.replace("_", "-")
                raise ConfigError(f"--{name} {getattr(self, item.name)} allows nothing: give 1 or more.")
        for part, whole in (
            ("images", "pending_images"),
            ("megapixels", "pending_megapixels"),
            ("file_megabytes", "request_megabytes"),
        ):
            if getattr(self, part) > getattr(self, whole):
                larger, smaller = whole.replace("_", "-"), part.replace("_", "-")
                raise ConfigError(
                    f"--{larger} {getattr(self, whole)} is below --{smaller} {getattr(self, part)}: raise it."
                )


class Budget:
    """Bound the images and pixels of all requests together: those that wait, and those in work."""

    def __init__(self, images: int, pixels: int):
        self._most = (images, pixels)
        self._lock = threading.Lock()
        self._used = (0, 0)

    @property
    def images(self) -> int:
        """Return how many images are held."""
        return self._used[0]

    @contextmanager
    def reserve(self, images: int, pixels: int) -> Iterator[None]:
        """Hold the images of a request inside the block.

        Raises:
            BusyError: there is no room for them.
        """
        with self._lock:
            used = self._used[0] + images, self._used[1] + pixels
            # A request above the bounds, such as many references of a context, runs when nothing else does.
            if self._used != (0, 0) and any(a > b for a, b in zip(used, self._most, strict=True)):
                raise BusyError("The service holds as many images as it can: send the request again later.")
            self._used = used
        try:
            yield
        finally:
            with self._lock:
                self._used = self._used[0] - images, self._used[1] - pixels
