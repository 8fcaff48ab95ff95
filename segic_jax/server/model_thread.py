"""Run the model in one thread: what waits for the same context is segmented together, in order."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from segic_jax.inference.context import Context
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tiles import Tiles

TOGETHER = 8  # images that are taken at once, or those of a batch of the engine if it has more


class Ask(NamedTuple):
    """Hold what a request asks about its images."""

    context: Context
    cut: float = 0.0
    keep_absent: bool = False
    together: bool = False
    tiles: Tiles | None = None
    instances: InstancesFrom | None = None


class _Job(NamedTuple):
    """Hold an image to segment, or something else to do with the model."""

    future: Future
    image: UInt8[np.ndarray, "height width 3"] | None = None
    ask: Ask | None = None
    work: Callable[[], Any] | None = None


class ModelThread:
    """Own the model; nothing else may run it meanwhile."""

    def __init__(self, segmenter: Segmenter, on_batch: Callable[[int], None] = lambda images: None):
        """Start the thread.

        Args:
            on_batch: called with the number of images that were taken together.
        """
        self._segmenter, self._on_batch = segmenter, on_batch
        self._together = max(TOGETHER, segmenter.engine.rows)
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def predict(self, image: UInt8[np.ndarray, "height width 3"], ask: Ask) -> "Future[Result]":
        """Segment an image; a future that is cancelled in time costs nothing."""
        return self._add(_Job(Future(), image=image, ask=ask))

    def call(self, work: Callable[[], Any]) -> Future:
        """Do something else with the model."""
        return self._add(_Job(Future(), work=work))

    def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _add(self, job: _Job) -> Future:
        with self._changed:
            if self._closed:
                raise RuntimeError("The model's thread has ended.")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def _run(self) -> None:
        while jobs := self._take():
            alive = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not alive:
                continue
            try:
                if alive[0].work is not None:
                    alive[0].future.set_result(alive[0].work())
                else:
                    self._on_batch(len(alive))
                    self._segment(alive)
            except Exception as error:  # it belongs to whoever asked
                for job in alive:
                    if not job.future.done():
                        job.future.set_exception(error)

    def _segment(self, jobs: Sequence[_Job]) -> None:
        ask = jobs[0].ask
        assert ask is not None
        images = [job.image for job in jobs if job.image is not None]
        results = self._segmenter.predict_many(images, **ask._asdict())
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _take(self) -> list[_Job]:
        """Wait for work; return the next job with the images that ask for the same, nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            if first.ask is None:
                return [first]
            same = [job for job in self._jobs if job.ask == first.ask][: self._together - 1]
            taken = set(map(id, same))
            self._jobs = deque(job for job in self._jobs if id(job) not in taken)
            return [first, *same]
