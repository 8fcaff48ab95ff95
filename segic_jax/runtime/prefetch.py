"""Run work in threads a little before its results are used, and give the results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


def prefetch(
    pool: Executor, work: Callable[[Item], Output], items: Iterable[Item], limit: int
) -> Generator[tuple[Item, Future[Output]]]:
    """Yield each item with the future of `work(item)`, in order.

    Closing the generator, or an exception from `items`, cancels the work that has not begun.

    Args:
        limit: how many further items are in work, or done and not yet taken, at most.
    """
    pending: deque[tuple[Item, Future[Output]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) > limit:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()


def prefetch_results(
    work: Callable[[Item], Output], items: Iterable[Item], *, threads: int = 1, limit: int = 2
) -> Generator[Output]:
    """Yield `work(item)` for each item, in order, computed by threads of its own.

    Args:
        limit: as in `prefetch`.

    Raises:
        Exception: whatever `work` raised, at the place of its item.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending = prefetch(pool, work, items, limit)
        try:
            for _, future in pending:
                yield future.result()
        finally:  # before the pool waits for its threads
            pending.close()
