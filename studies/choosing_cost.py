"""Measure the time and the memory of one method, in a process of its own."""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Literal, NamedTuple

from segic_jax.data.sources.folder import FolderSource
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter

HEAD, FREE, MAP = "segic", "training_free", "map"
MethodOrMap = Literal["segic", "training_free", "map"]


class Cost(NamedTuple):
    """Hold the median time of a call in seconds, and the peak memory of its process in bytes."""

    seconds: float
    peak: int


def measure_cost(model: str, method: MethodOrMap, source: FolderSource, rounds: int) -> Cost:
    """Segment photographs with a Context of one class, kept from the first on."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, model, method, source, rounds).result()


def _measure(model: str, method: MethodOrMap, source: FolderSource, rounds: int) -> Cost:
    segmenter = Segmenter.load(model, method="segic" if method == MAP else method)
    images = [source.load(view) for view in source.views()][: rounds + 1]
    context = segmenter.fit(Example(images[0].image, images[0].mask, name="object"))
    times = []
    for image in images:
        start = time.perf_counter()
        if method == MAP:
            segmenter.explain(image.image, context)
        else:
            segmenter.predict(image.image, context)
        times.append(time.perf_counter() - start)
    return Cost(median(times[1:]), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
