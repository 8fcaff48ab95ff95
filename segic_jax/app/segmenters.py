"""Hold the model of the page with each method that visitors choose."""

from functools import partial
from threading import Lock

from segic_jax.config import Backend, Method, Precision
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import Bundle


class Segmenters:
    """Give the segmenter of a method; all of them share the backbone on the device and its programs."""

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision = "auto",
        method: Method = "segic",
        backend: Backend = "jax",
    ):
        """Make the segmenter of the method that the page begins with."""
        self._bundle, self.first = bundle, method
        self._make = partial(Segmenter, bundle, precision, backend=backend)
        self._made = {method: self._make(method=method)}
        self._lock = Lock()

    @property
    def methods(self) -> tuple[Method, ...]:
        """Return the methods that the model serves: without a head only the training-free one."""
        return ("segic", "training_free") if self._bundle.head else ("training_free",)

    def of(self, method: Method) -> Segmenter:
        """Return the segmenter of a method, which is made when it is first asked for."""
        with self._lock:
            if method not in self._made:
                self._made[method] = self._make(method=method, beside=self._made[self.first])
            return self._made[method]
