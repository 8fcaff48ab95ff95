"""Choose between the forms of an operation that suit XLA, and the one that other runtimes know."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PORTABLE: ContextVar[bool] = ContextVar("portable_operations", default=False)


@contextmanager
def portable_operations() -> Iterator[None]:
    """Trace the common form of each operation inside the block, for formats such as ONNX.

    Attention is one product for every platform, whatever memory it takes, and a depthwise convolution is one
    operation.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Return whether the common forms are asked for."""
    return _PORTABLE.get()
