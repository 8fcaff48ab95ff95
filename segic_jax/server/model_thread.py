"""Run the model in one thread: what waits for the same context is segmented together, in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from segic_jax.inference.context import Context
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tiles import Tiles

TOGETHER = 8  # images with the same ask before others get their turn; a batch of the engine if it has more


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
            on_batch: called with the number of images that were segmented without a pause.
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
        while (job := self._take()) is not None:
            started = deque([job])
            try:
                if job.work is not None:
                    job.future.set_result(job.work())
                else:
                    self._segment(started)
            except Exception as error:  # it belongs to whoever asked
                for job in started:
                    if not job.future.done():
                        job.future.set_exception(error)

    def _segment(self, started: deque[_Job]) -> None:
        """Segment the image of a job, and those that ask for the same, in one stream without a pause.

        Args:
            started: the job; gets the others as they are taken, and loses those that have their result.
        """
        ask, count = started[0].ask, 1
        assert ask is not None

        def images() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
            nonlocal count
            job: _Job | None = started[0]
            while job is not None:
                assert job.image is not None
                yield job.image
                if (job := self._take_same(ask, count)) is not None:
                    started.append(job)
                    count += 1

        for result in self._segmenter.predict_many(images(), **ask._asdict()):
            started.popleft().future.set_result(result)
        self._on_batch(count)

    def _take(self) -> _Job | None:
        """Wait for a job, and return it; None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return None
                job = self._jobs.popleft()
                if job.future.set_running_or_notify_cancel():
                    return job

    def _take_same(self, ask: Ask, taken: int) -> _Job | None:
        """Return the next job that waits and asks for the same; None for none, or if others must be next.

        Args:
            taken: how many jobs that ask for the same have been taken one after the other.
        """
        with self._changed:
            same = [job for job in self._jobs if job.ask == ask]
            if len(same) < len(self._jobs) and taken >= self._together:
                return None
            for job in same:
                self._jobs.remove(job)
                if job.future.set_running_or_notify_cancel():
                    return job
            return None
