"""Work done in threads a little ahead of its use, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    pool: Executor, work: Callable[[Item], Made], items: Iterable[Item], most: int
) -> Generator[tuple[Item, Future[Made]]]:
    """Each item with the future of its work; at most `most` others are in work or wait to be taken."""
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > most:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:  # an error, or nobody wants the rest
        for _, future in waiting:
            future.cancel()
