"""Collect what is doubtful about inputs, so that a server shows it to the user whose inputs they are."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from segic_jax.errors import InputWarning

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collect_warnings", default=None)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Yield a list that gets the InputWarnings of this thread inside the block, each once.

    `route_warnings` must have been called.
    """
    collected: list[str] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def route_warnings() -> None:
    """Give InputWarnings to the thread that collects them; the others are shown as before."""
    show = warnings.showwarning

    def route(message, category, filename, lineno, file=None, line=None) -> None:
        collected = _COLLECTED.get()
        if collected is None or not issubclass(category, InputWarning):
            show(message, category, filename, lineno, file, line)
        elif str(message) not in collected:
            collected.append(str(message))

    warnings.showwarning = route
    warnings.filterwarnings("always", category=InputWarning)
