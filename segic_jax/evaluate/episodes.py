"""Score a model on episodes: rows go to disk as they come, and all else is made of rows.

Formulas: `evaluate.metrics`; what is compared at which size: `evaluate.protocols`.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import jax
import numpy as np

import segic_jax
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.check import require_files
from segic_jax.data.episodes import View
from segic_jax.data.manifest import EpisodeSource, Manifest, episodes_hash
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate import report
from segic_jax.evaluate.baselines import wrong_references
from segic_jax.evaluate.gallery import gallery_item
from segic_jax.evaluate.infer import Task, judge_all
from segic_jax.evaluate.protocols import Protocol, find_protocol
from segic_jax.evaluate.records import Records, environment, in_domain, model_identity, spread
from segic_jax.evaluate.report import GalleryItem
from segic_jax.evaluate.rows import class_labels, row_of, summary
from segic_jax.inference.engine import Engine
from segic_jax.runtime import progress
from segic_jax.runtime.distributed import gather_json, is_main_host, raise_on_all_hosts
from segic_jax.weights.bundle import Bundle


def evaluate(
    bundle: Bundle,
    benchmark: BenchmarkSpec,
    source: EpisodeSource,
    manifests: Sequence[Manifest],
    *,
    protocol: Protocol,
    out: Path,
    batch_size: int = 16,
    workers: int = 0,
    limit: int | None = None,
    class_names: bool = False,
    baselines: bool = False,
    random_backbone: Bundle | None = None,
) -> dict:
    """Answer all episodes, write `out` (see docs/benchmarks.md) and give the content of its result.json.

    Started again with the same `out`, it goes on after the rows that are there. Several hosts share the work.

    Args:
        manifests: one a fold.
        batch_size: episodes between reading and judgement; it changes no result.
        workers: processes that read images; 0 reads in threads.
        limit: answer about every len / limit-th episode only.
        class_names: give the model the class names as text.
        baselines: also score what `evaluate.baselines` lists.
        random_backbone: a model trained over a frozen random backbone, one more baseline.

    Raises:
        ConfigError: `batch_size` or `limit` below 1.
        DataError: no episodes, an image that cannot be read, or `out` holds another run.
        BundleError: `class_names` without text features for them.
    """
    if batch_size < 1 or workers < 0:
        raise ConfigError(f"batch_size {batch_size} must be at least 1, workers {workers} at least 0.")
    begin = time.perf_counter()
    tasks = make_tasks(bundle, source, manifests, class_names=class_names, wrong=baselines)
    chosen = spread(tasks, limit)
    threshold = bundle.notes.get("cosine_threshold") if baselines else None
    models = {"segic": bundle} | ({"random_backbone": random_backbone} if random_backbone else {})
    identity = {
        "benchmark": benchmark.name,
        "protocol": protocol.to_dict(),
        "episodes": [manifest.sha256 for manifest in manifests],
        "model": model_identity(bundle),
        "class_names": class_names,
        "baselines": baselines,
        "random_backbone": model_identity(random_backbone) if random_backbone else None,
        "version": segic_jax.__version__,
    }
    engines = {name: Engine(one) for name, one in models.items()}
    with Records(out, identity) as records:
        todo = [task for task in chosen if task.index not in records.done]
        own = todo[jax.process_index() :: jax.process_count()]
        with (
            raise_on_all_hosts(),
            closing(_Progress(chosen, records.done, len(own), benchmark.name)) as progress,
        ):
            require_files(source, [view for task in own for view in _views(task)])
            for row in judge_all(
                engines,
                source,
                own,
                lambda answer: row_of(answer, protocol, threshold, baselines),
                blank=baselines,
                similarity=threshold is not None,
                show_references=baselines,
                in_flight=batch_size,
                workers=workers,
            ):
                records.add(row)
                progress.add(row)
        done = records.gathered()
    rows = [done[task.index] for task in chosen]

    by_index = {task.index: task for task in chosen}
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "protocol": protocol.to_dict(),
        "shots": manifests[0].shots,
        "folds": [manifest.fold for manifest in manifests],
        "class_names_given": class_names,
        "in_domain": in_domain(bundle, benchmark.domain),
        "manifest": {
            "sha256": episodes_hash([e for manifest in manifests for e in manifest.episodes]),
            "folds": {str(manifest.fold): manifest.sha256 for manifest in manifests},
        },
        "episodes": len(rows),
        "episodes_in_list": len(tasks),
        "classes": len({(row["fold"], row["class"]) for row in rows}),
        **summary(rows, manifests, protocol, class_labels(source, rows)),
        "cosine_threshold": threshold,
        "notes": _notes(bundle, tasks, baselines, random_backbone),
        "model": model_identity(bundle) | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if is_main_host():
        gallery = _gallery(engines["segic"], source, by_index, rows, protocol)
        report.write(out, result, rows, gallery)
    return result


def score(
    bundle: Bundle,
    source: EpisodeSource,
    manifest: Manifest,
    *,
    limit: int | None = None,
    batch_size: int = 16,
) -> dict:
    """`scores` of the result alone, without files; the hosts share the work, and all of them must call it."""
    protocol = find_protocol(manifest.protocol)
    tasks = spread(make_tasks(bundle, source, [manifest]), limit)
    own = tasks[jax.process_index() :: jax.process_count()]
    rows: list[dict] = []
    with raise_on_all_hosts():
        answers = judge_all(
            {"segic": Engine(bundle)}, source, own, lambda a: row_of(a, protocol), in_flight=batch_size
        )
        rows += answers
    rows = sorted((row for part in gather_json(rows) for row in part), key=lambda row: row["index"])
    return summary(rows, [manifest], protocol, {})["scores"]


def make_tasks(
    bundle: Bundle,
    source: EpisodeSource,
    manifests: Sequence[Manifest],
    *,
    class_names: bool = False,
    wrong: bool = False,
) -> list[Task]:
    """All episodes of all folds, numbered."""
    tasks: list[Task] = []
    text: dict[str, np.ndarray] = {}
    for manifest in manifests:
        if not all(episode.references for episode in manifest.episodes):
            raise DataError(f"{source.name} has episodes without a reference; give it at least one shot.")
        order = wrong_references(manifest.episodes) if wrong else None
        for i, episode in enumerate(manifest.episodes):
            name = source.class_name(episode.class_id) if class_names else ""
            if name not in text:
                text[name] = bundle.text_feature(name)
            other = manifest.episodes[order[i]].reference_views[0] if order else None
            tasks.append(Task(len(tasks), manifest.fold, episode, text[name], other))
    if not tasks:
        raise DataError(f"{source.name} has no episodes.")
    return tasks


def _views(task: Task) -> list[View]:
    """Everything that is read for an episode."""
    episode = task.episode
    return [episode.target_view, *episode.reference_views, *([task.wrong] if task.wrong else [])]


def _notes(bundle: Bundle, tasks: Sequence[Task], baselines: bool, random_backbone: Bundle | None) -> list:
    if not baselines:
        return []
    notes = []
    if all(task.wrong is None for task in tasks):
        notes.append("There is only one class, so no wrong reference to show.")
    if bundle.notes.get("cosine_threshold") is None:
        notes.append(f"{bundle.name} names no cosine threshold; that baseline is left out.")
    if random_backbone is None:
        notes.append("No model over a random backbone was given; that baseline is left out.")
    return notes


def _gallery(
    engine: Engine, source: EpisodeSource, tasks: Mapping[int, Task], rows: Sequence[dict], protocol: Protocol
) -> list[GalleryItem]:
    """The best, median and worst episodes, answered once more to be drawn."""
    chosen = [(kind, index) for kind, many in report.chosen(rows).items() for index in many]
    iou = {row["index"]: row["iou"] for row in rows}
    kinds = iter(kind for kind, _ in chosen)

    answers = judge_all(
        {"segic": engine},
        source,
        [tasks[i] for _, i in chosen],
        lambda answer: gallery_item(answer, iou[answer.task.index]),
        similarity=True,
        show_references=True,
    )
    return [one._replace(kind=next(kinds)) for one in answers]


class _Progress:
    """A bar with the running mIoU of all rows so far and the time left."""

    def __init__(self, chosen: Sequence[Task], done: Mapping[int, dict], todo: int, name: str):
        self._sums: dict = {}
        kept = [done[task.index] for task in chosen if task.index in done]
        for row in kept:
            self._count(row)
        self._bar = progress.bar(
            total=len(kept) + todo,
            initial=len(kept),
            desc=name,
            unit="episode",
            enabled=is_main_host(),
        )

    def _count(self, row: dict) -> None:
        sums = self._sums.setdefault((row["fold"], row["class"]), [0, 0])
        sums[0] += row["intersection"]
        sums[1] += row["union"]

    def add(self, row: dict) -> None:
        """One more row."""
        self._count(row)
        mean = float(np.mean([i / max(u, 1) for i, u in self._sums.values()]))
        self._bar.set_postfix(mIoU=f"{100 * mean:.1f}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
