"""Choose between the forms of an operation that suit XLA on one platform, and those that others can run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Runtime = Literal["xla", "onnx"]
_RUNTIME: ContextVar[Runtime | None] = ContextVar("portable_operations", default=None)


@contextmanager
def portable_operations(runtime: Runtime) -> Iterator[None]:
    """Trace the common form of each operation inside the block.

    Args:
        runtime: what runs the program. For both, attention is one product for every platform, whatever memory
            it takes. For "onnx", a depthwise convolution is one operation, which XLA runs slowly on a CPU.
    """
    token = _RUNTIME.set(runtime)
    try:
        yield
    finally:
        _RUNTIME.reset(token)


def is_portable() -> bool:
    """Return whether the program must run on every platform."""
    return _RUNTIME.get() is not None


def is_for_onnx() -> bool:
    """Return whether a runtime of ONNX runs the program."""
    return _RUNTIME.get() == "onnx"
