"""Test that prefetched work is ordered and bounded, and cancelled when the consumer stops."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segic_jax.runtime.prefetch import prefetch, prefetch_results


def test_results_have_the_order_of_the_items():
    def work(item: int) -> int:
        time.sleep(0.01 * (3 - item % 4))
        return 10 * item

    assert list(prefetch_results(work, range(9), threads=4, limit=3)) == [10 * i for i in range(9)]
    with ThreadPoolExecutor(4) as pool:
        pairs = [(item, future.result()) for item, future in prefetch(pool, work, range(9), 3)]
    assert pairs == [(i, 10 * i) for i in range(9)]


def test_at_most_limit_items_are_in_flight():
    taken = []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    results = prefetch_results(lambda item: item, items(), limit=3)
    for count, _ in enumerate(results, 1):
        assert len(taken) <= count + 3


def test_an_exception_is_raised_in_order_and_cancels_the_rest():
    started, release = [], threading.Event()

    def work(item: int) -> int:
        started.append(item)
        if item == 1:
            raise ValueError("the second item")
        if item > 1:
            release.wait(10)
        return item

    results = prefetch_results(work, range(100), threads=1, limit=50)
    assert next(results) == 0
    threading.Timer(0.2, release.set).start()
    with pytest.raises(ValueError, match="the second item"):
        next(results)
    assert started in ([0, 1], [0, 1, 2])


def test_a_consumer_that_stops_cancels_the_rest():
    started = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.02)
        return item

    results = prefetch_results(work, range(100), threads=1, limit=50)
    assert next(results) == 0
    results.close()
    assert len(started) < 10
