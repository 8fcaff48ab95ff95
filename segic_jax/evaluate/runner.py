"""Run an evaluation of any kind: episodes, videos or semantic segmentation.

`run_evaluation` does once what the three have in common: the identity of the run, the log that a stopped run
continues from, the split over hosts, the progress bar with the running score, and the result files.

<out>/result.json                  scores, settings, hashes, versions
<out>/report.html                  the same as a page that needs no other file
<out>/episodes.jsonl               one line for each item, from which every score can be computed again
<out>/run.json, parts/             see `evaluate.run_log`
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

import segic_jax
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.errors import ConfigError
from segic_jax.evaluate.run_log import RunLog
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.runtime.distributed import is_main_host, raise_on_all_hosts
from segic_jax.weights.bundle import Bundle

LIBRARIES = ("segic_jax", "jax", "jaxlib", "flax", "numpy", "opencv-python-headless")
T = TypeVar("T")


@runtime_checkable
class Evaluation(Protocol):
    """Describe what one kind of benchmark does differently from the others.

    An item is what a row is made of: an episode, a video or an image. Items are numbered from 0 in the
    order of the benchmark's list.
    """

    benchmark: BenchmarkSpec
    bundle: Bundle
    unit: str  # of the progress bar: "episode"
    score_name: str  # of the running score: "mIoU"

    def __len__(self) -> int:
        """Return the number of items in the benchmark's list."""
        ...

    def identity(self) -> dict:
        """Return everything the rows depend on besides benchmark, model and version; JSON values."""
        ...

    def settings(self) -> dict:
        """Return the first entries of the result: protocol, and whether class names are given."""
        ...

    def prepare(self, indices: Sequence[int], out: Path) -> None:
        """Do what has to be done once before this host computes the rows of `indices`."""
        ...

    def rows(self, indices: Sequence[int], out: Path) -> Iterator[dict]:
        """Yield the rows of the items, in order; each has its "index" and only JSON values.

        A row may have "seconds", the time it took, which episodes.jsonl leaves out.
        """
        ...

    def running_score(self) -> Callable[[dict], float]:
        """Return a function that takes every row once and returns the score so far, in per cent."""
        ...

    def summarise(self, rows: Sequence[dict]) -> dict:
        """Return the further entries of the result: counts, scores, notes."""
        ...

    def files(self, result: dict, rows: Sequence[dict], out: Path) -> Iterable[tuple[str, bytes]]:
        """Yield names and contents of report.html and of the files that only this kind has."""
        ...

    def table(self, result: dict) -> str:
        """Return the scores as aligned lines for a terminal."""
        ...


def run_evaluation(evaluation: Evaluation, out: Path, *, limit: int | None = None) -> dict:
    """Evaluate all items, write the result files and return the content of result.json.

    Started again with the same `out`, it continues after the rows that are there. Hosts share the items, and
    all of them must call this.

    Args:
        limit: evaluate only so many items, spread evenly over the list.

    Raises:
        ConfigError: `limit` below 1.
        DataError: a file is missing or damaged, or `out` holds another run. Finished rows are kept.
    """
    start = time.perf_counter()
    benchmark, bundle = evaluation.benchmark, evaluation.bundle
    chosen = spread(range(len(evaluation)), limit)
    model = model_identity(bundle)
    identity = {"benchmark": benchmark.name} | evaluation.identity()
    identity |= {"model": model, "version": segic_jax.__version__}
    with RunLog(out, identity) as log:
        todo = host_share([index for index in chosen if index not in log.done])
        with raise_on_all_hosts():
            evaluation.prepare(todo, out)
        kept = [log.done[index] for index in chosen if index in log.done]
        with raise_on_all_hosts(), closing(_Progress(evaluation, kept, len(todo))) as bar:
            for row in evaluation.rows(todo, out):
                log.add(row)
                bar.add(row)
        done = log.gather()
    rows = [done[index] for index in chosen]
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        **evaluation.settings(),
        "in_domain": in_domain(bundle, benchmark.domain),
        **evaluation.summarise(rows),
        "model": model | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if is_main_host():
        _write(evaluation, result, rows, out)
    return result


class _Progress:
    """Show how many items are done, and the running score."""

    def __init__(self, evaluation: Evaluation, kept: Sequence[dict], todo: int):
        self._name, self._score = evaluation.score_name, evaluation.running_score()
        for row in kept:
            self._score(row)
        self._bar = progress.bar(
            total=len(kept) + todo,
            initial=len(kept),
            desc=evaluation.benchmark.name,
            unit=evaluation.unit,
            enabled=is_main_host(),
        )

    def add(self, row: dict) -> None:
        score = self._score(row)
        if not np.isnan(score):
            self._bar.set_postfix({self._name: f"{score:.1f}"}, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _write(evaluation: Evaluation, result: dict, rows: Sequence[dict], out: Path) -> None:
    """Write every file atomically, result.json last: where it is, the others are complete."""
    for name, content in evaluation.files(result, rows, out):
        atomic_write(out / name, content)
    lines = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    atomic_write(out / "episodes.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    atomic_write(out / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def host_share(items: Sequence[T]) -> Sequence[T]:
    """Return this host's part of the items."""
    return items[jax.process_index() :: jax.process_count()]


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """Return all items, or `limit` of them spread evenly over the list.

    Raises:
        ConfigError: `limit` below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} must be at least 1.")
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def list_hash(items: Sequence) -> str:
    """Return the SHA-256 of a list of JSON values: it identifies the items that a run evaluates."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def model_identity(bundle: Bundle) -> dict:
    """Return name and SHA-256 of a model file, for identities and results."""
    file_hash = None
    if bundle.path is not None:
        with bundle.path.open("rb") as file:
            file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": bundle.name, "sha256": file_hash}


def in_domain(bundle: Bundle, data_set: str) -> bool | None:
    """Say whether the model was trained on the benchmark's data set; None where its file does not say.

    A model file says it by `notes["trained_on"]`, a list of data sets.
    """
    trained_on = bundle.notes.get("trained_on")
    return None if trained_on is None else data_set in trained_on


def environment() -> dict:
    """Describe libraries and devices of this run, for results."""
    return {
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
    }


def list_defects(rows: Sequence[dict], left_out: Iterable[str] = ()) -> list[str]:
    """Return a sentence for every defect of the data that a run got past, each once.

    Args:
        rows: those of an evaluation; "notes" of each are about files that were handled.
        left_out: sentences about files and classes that no row has.
    """
    return list(dict.fromkeys([*left_out, *(note for row in rows for note in row.get("notes", ()))]))


def defects_note(defects: Sequence[str]) -> list[str]:
    """Return a note for a result that counts them; none if there are no defects."""
    if not defects:
        return []
    return [f"{len(defects)} defect(s) of the data (defects in result.json): {defects[0]}"]


def to_json(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Return scores with their full precision; NaN becomes None, which JSON can hold."""
    return {name: None if np.isnan(value) else float(value) for name, value in scores.items()}
