"""Evaluate episodes: segment a class in a target as one or several references show it.

An episode's way: `make_tasks` -> `episode_stream.predict_episodes` (images to mask logits) ->
`protocols.prediction_row` (pixel counts) -> `protocols.summarise_rows` (scores).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from segic_jax.config import Precision
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.episodes import (
    ClassId,
    Episode,
    EpisodeSource,
    Manifest,
    WithObjects,
    episodes_hash,
    require_files,
)
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate import report
from segic_jax.evaluate.episode_stream import Prediction, Task, predict_episodes
from segic_jax.evaluate.instances import average_precisions, instance_row
from segic_jax.evaluate.metrics import RunningMeanIoU
from segic_jax.evaluate.protocols import (
    Protocol,
    find_protocol,
    predicted_mask,
    prediction_row,
    similarity_on_image,
    summarise_rows,
    to_image_size,
)
from segic_jax.evaluate.report import GalleryItem
from segic_jax.evaluate.runner import (
    defects_note,
    files_with_defects,
    host_share,
    model_identity,
    spread,
    to_json,
)
from segic_jax.inference.engine import Engine
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.tiles import Tiles, require_tiles
from segic_jax.runtime.distributed import gather_json, raise_on_all_hosts
from segic_jax.weights.bundle import Bundle

LABELS = {
    "segic": "SegIC",
    "copy": "reference's mask copied",
    "cosine": "similarity map, thresholded",
    "no_reference": "head without a reference",
    "wrong_reference": "head with a wrong reference",
    "random_backbone": "head on a random backbone",
}


class EpisodeEvaluation:
    """Evaluate the episodes of one or several folds; see `runner.Evaluation`."""

    unit = "episode"
    score_name = "mIoU"

    def __init__(
        self,
        bundle: Bundle,
        benchmark: BenchmarkSpec,
        source: EpisodeSource,
        manifests: Sequence[Manifest],
        *,
        protocol: Protocol,
        class_names: bool = False,
        baselines: bool = False,
        random_backbone: Bundle | None = None,
        batch_size: int = 16,
        workers: int = 0,
        precision: Precision = "auto",
        tiles: Tiles | None = None,
        instances: InstancesFrom | None = None,
    ):
        """Number the episodes of all folds.

        Args:
            manifests: one for each fold.
            class_names: give the model the class names as text.
            baselines: also score what a result has to beat; see `LABELS`.
            random_backbone: a model trained over a frozen random backbone, one more baseline.
            batch_size: episodes between reading and scoring; it changes no result.
            workers: processes that read images; 0 reads in threads.
            precision: of the backbone; see `inference.engine.Engine`.
            tiles: segment targets in windows; see `inference.tiles`.
            instances: also score the objects of each class, separated in this way; see `inference.instances`.

        Raises:
            ConfigError: `batch_size` below 1, `workers` below 0, no number of `tiles`, or `instances` of a
                source that does not tell objects apart.
            DataError: there are no episodes, or some have no reference.
            BundleError: `class_names` without text features for them.
        """
        if batch_size < 1 or workers < 0:
            raise ConfigError(f"batch_size {batch_size} must be at least 1, workers {workers} at least 0.")
        require_tiles(tiles)
        if instances is not None and not isinstance(source, WithObjects):
            raise ConfigError(
                f"{source.name} does not tell the objects of a class apart: for scores of instances give "
                "--benchmark folder a COCO JSON as --data-root."
            )
        self.bundle, self.benchmark, self.protocol = bundle, benchmark, protocol
        self._tiles, self._instances = tiles, instances
        self._source, self._manifests = source, manifests
        self._class_names, self._baselines = class_names, baselines
        self._random_backbone = random_backbone
        self._batch_size, self._workers = batch_size, workers
        self._threshold = bundle.notes.get("cosine_threshold") if baselines else None
        self._tasks = make_tasks(
            bundle, source, manifests, class_names=class_names, wrong_references=baselines
        )
        self._engine = Engine(bundle, precision=precision)

    def __len__(self) -> int:
        """Return the number of episodes in the list."""
        return len(self._tasks)

    def identity(self) -> dict:
        """Return everything the rows depend on besides benchmark, model and version."""
        random_backbone = self._random_backbone
        return {
            "protocol": self.protocol.to_dict(),
            "episodes": [manifest.sha256 for manifest in self._manifests],
            "class_names": self._class_names,
            "baselines": self._baselines,
            "random_backbone": model_identity(random_backbone) if random_backbone else None,
            "precision": self._engine.precision,
            **self._ways(),
        }

    def _ways(self) -> dict:
        """Return the ways to segment and separate that were chosen; without them, runs are as before."""
        ways = {"tiles": self._tiles, "instances_from": self._instances}
        return {name: value for name, value in ways.items() if value is not None}

    def settings(self) -> dict:
        """Return the first entries of the result."""
        return {
            "protocol": self.protocol.to_dict(),
            "shots": self._manifests[0].shots,
            "folds": [manifest.fold for manifest in self._manifests],
            "class_names_given": self._class_names,
            "precision": self._engine.precision,
            **self._ways(),
        }

    def prepare(self, indices: Sequence[int], out: Path) -> None:
        """Name a missing file before hours are spent."""
        require_files(self._source, [view for index in indices for view in self._tasks[index].views])

    def rows(self, indices: Sequence[int], out: Path) -> Iterator[dict]:
        """Yield the pixel counts of each episode."""
        engines = {"segic": self._engine}
        if self._random_backbone:
            engines["random_backbone"] = Engine(self._random_backbone, precision=self._engine.precision)
        return predict_episodes(
            engines,
            self._source,
            [self._tasks[index] for index in indices],
            self._row,
            no_reference=self._baselines,
            similarity=self._threshold is not None,
            references=self._baselines,
            rounded_canvas=self.protocol.rounded_canvas,
            in_flight=self._batch_size,
            workers=self._workers,
            tiles=self._tiles,
        )

    def _row(self, prediction: Prediction) -> dict:
        row = prediction_row(prediction, self.protocol, threshold=self._threshold, copy=self._baselines)
        if self._instances is not None and isinstance(self._source, WithObjects):
            objects = self._source.objects(prediction.task.episode.target_view)
            logits = to_image_size(prediction.logits["segic"], prediction.size, objects.masks.shape[1:])
            row["objects"] = instance_row(logits, self._instances, objects)
        return row

    def running_score(self) -> Callable[[dict], float]:
        """Return a function that takes each row and returns the mIoU so far, in per cent."""
        running = RunningMeanIoU()

        def score(row: dict) -> float:
            running.add((row["fold"], row["class"]), row["intersection"], row["union"])
            return running.value

        return score

    def summarise(self, rows: Sequence[dict]) -> dict:
        """Return counts, scores and notes of the result."""
        manifests = self._manifests
        defects = files_with_defects(rows, [note for manifest in manifests for note in manifest.notes])
        return {
            "manifest": {
                "sha256": episodes_hash([e for manifest in manifests for e in manifest.episodes]),
                "folds": {str(manifest.fold): manifest.sha256 for manifest in manifests},
            },
            "episodes": len(rows),
            "episodes_in_list": len(self._tasks),
            "classes": len({(row["fold"], row["class"]) for row in rows}),
            **summarise_rows(rows, manifests, self.protocol, class_labels(self._source, rows)),
            "instances": self._instance_scores(rows),
            "cosine_threshold": self._threshold,
            "files_with_defects": defects,
            "notes": [*self._notes(), *defects_note(defects)],
        }

    def _instance_scores(self, rows: Sequence[dict]) -> dict | None:
        """Return the average precisions of instances, in per cent; None where they were not asked for."""
        if self._instances is None:
            return None
        by_class: dict[tuple[int, ClassId], list[dict]] = {}
        for row in rows:
            by_class.setdefault((row["fold"], row["class"]), []).append(row["objects"])
        return to_json(average_precisions(by_class.values()))

    def _notes(self) -> list[str]:
        """Say which baselines are missing, and why."""
        if not self._baselines:
            return []
        notes = []
        if self._tasks[0].wrong_reference is None:
            notes.append("There is only one class in a fold, so there is no wrong reference to give.")
        if self._threshold is None:
            notes.append(f"{self.bundle.name} names no similarity threshold; that baseline is left out.")
        if self._random_backbone is None:
            notes.append("No model over a random backbone was given; that baseline is left out.")
        return notes

    def files(self, result: dict, rows: Sequence[dict], out: Path) -> Iterator[tuple[str, bytes]]:
        """Yield per_class.csv, report.html and sheet.png."""
        gallery = self._gallery(rows)
        yield "per_class.csv", report.to_csv(["class", "iou"], result["class_iou"].items())
        if gallery:
            yield "sheet.png", report.encode_png(report.sheet(gallery))
        ious = [row["iou"] for row in rows]
        bars = result["class_iou"].items()
        yield (
            "report.html",
            report.render("episodes.html.j2", result, bars, ious, gallery=gallery, labels=LABELS),
        )

    def _gallery(self, rows: Sequence[dict]) -> list[GalleryItem]:
        """Predict the best, median and worst episodes again, to draw them."""
        selected = report.select_episodes(rows)
        kinds = {index: kind for kind, indices in selected.items() for index in indices}
        iou = {row["index"]: row["iou"] for row in rows}

        def item(prediction: Prediction) -> GalleryItem:
            index = prediction.task.index
            return gallery_item(prediction, iou[index])._replace(kind=kinds[index])

        tasks = [self._tasks[index] for index in kinds]
        return list(
            predict_episodes(
                {"segic": self._engine},
                self._source,
                tasks,
                item,
                similarity=True,
                references=True,
                rounded_canvas=self.protocol.rounded_canvas,
                tiles=self._tiles,
            )
        )

    def table(self, result: dict) -> str:
        """Return the scores as aligned lines, at most a screen."""
        protocol, scores = result["protocol"], result["scores"]
        lines = [
            f"{result['benchmark']}: {result['episodes']} episodes of {result['classes']} classes, "
            f"{result['shots']} shot(s), mIoU in per cent",
            f"  protocol {protocol['name']}: {protocol['truth']}; class names "
            f"{'given' if result['class_names_given'] else 'not given'}",
        ]
        for name, values in {"segic": scores, **result["baselines"]}.items():
            low, high = values["interval_95"]
            lines.append(f"  {LABELS[name]:<28}{values['miou']:6.1f}   95 % interval {low:.1f} - {high:.1f}")
        lines += [
            f"  mean over all classes of a fold {scores['miou_fold_classes']:.1f}, "
            f"over classes seen {scores['miou_seen_classes']:.1f}",
            f"  FB-IoU {scores['fb_iou']:.1f}, mean of the episodes' IoU {scores['episode_iou']:.1f}, "
            f"boundary IoU {_cell(scores['boundary_iou'])}",
        ]
        if (instances := result["instances"]) is not None:
            lines.append(
                f"  instances, from {self._instances}: AP50 {_cell(instances['ap50'])}, "
                f"AP75 {_cell(instances['ap75'])}, AP {_cell(instances['ap'])}"
            )
        if len(result["fold_scores"]) > 1:
            folds = (f"{fold}: {values['miou']:.1f}" for fold, values in result["fold_scores"].items())
            lines.append(f"  folds  {'  '.join(folds)}")
        ranked = sorted(result["class_iou"].items(), key=lambda item: item[1])
        if len(ranked) > 3:
            for label, part in (("best", ranked[:-4:-1]), ("worst", ranked[:3])):
                lines.append(f"  {label:<6} " + ", ".join(f"{name[:20]} {value:.1f}" for name, value in part))
        return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def score_episodes(
    engine: Engine,
    source: EpisodeSource,
    manifest: Manifest,
    *,
    limit: int | None = None,
    batch_size: int = 16,
) -> dict:
    """Return the `scores` of a result without writing files, such as for validation during training.

    Hosts share the episodes, and all of them must call this.
    """
    protocol = find_protocol(manifest.protocol)
    tasks = host_share(spread(make_tasks(engine.bundle, source, [manifest]), limit))
    rows: list[dict] = []
    with raise_on_all_hosts():
        rows += predict_episodes(
            {"segic": engine},
            source,
            tasks,
            lambda p: prediction_row(p, protocol),
            rounded_canvas=protocol.rounded_canvas,
            in_flight=batch_size,
        )
    gathered = [row for part in gather_json(rows) for row in part]
    return summarise_rows(sorted(gathered, key=lambda row: row["index"]), [manifest], protocol)["scores"]


def make_tasks(
    bundle: Bundle,
    source: EpisodeSource,
    manifests: Sequence[Manifest],
    *,
    class_names: bool = False,
    wrong_references: bool = False,
) -> list[Task]:
    """Number the episodes of all folds and add what the model is given besides images.

    Args:
        class_names: give the class's name as text, instead of the empty prompt.
        wrong_references: add a reference of another class, for that baseline, if all folds have several.

    Raises:
        DataError: there are no episodes, or some have no reference.
        BundleError: the model cannot encode a class name.
    """
    if not all(episode.references for manifest in manifests for episode in manifest.episodes):
        raise DataError(f"{source.name} has episodes without a reference; give it at least one shot.")
    tasks: list[Task] = []
    text: dict[str, np.ndarray] = {}
    orders = [other_class_episodes(manifest.episodes) for manifest in manifests]
    wrong_references = wrong_references and None not in orders
    for manifest, order in zip(manifests, orders, strict=True):
        for number, episode in enumerate(manifest.episodes):
            name = source.class_name(episode.class_id) if class_names else ""
            if name not in text:
                text[name] = bundle.text_feature(name)
            wrong = None
            if wrong_references and order is not None:
                wrong = manifest.episodes[order[number]].reference_views[0]
            tasks.append(Task(len(tasks), manifest.fold, episode, text[name], wrong))
    if not tasks:
        raise DataError(f"{source.name} has no episodes.")
    return tasks


def other_class_episodes(episodes: Sequence[Episode]) -> list[int] | None:
    """Return for each episode the index of one of another class; None if there is only one class.

    It is the first one from half the list further on.
    """
    if len({episode.class_id for episode in episodes}) < 2:
        return None
    count = len(episodes)
    return [
        next(
            other
            for step in range(count)
            if episodes[other := (index + count // 2 + step) % count].class_id != episode.class_id
        )
        for index, episode in enumerate(episodes)
    ]


def class_labels(source: EpisodeSource, rows: Sequence[dict]) -> Mapping[tuple[int, ClassId], str]:
    """Return names of the (fold, class) pairs in `rows`; where two share a name, the class id is added."""
    labels: dict[tuple[int, ClassId], str] = {}
    for fold, class_id in dict.fromkeys((row["fold"], row["class"]) for row in rows):
        try:
            label = source.class_name(class_id)
        except DataError:  # the benchmark's files name no classes
            label = str(class_id)
        labels[fold, class_id] = f"{label} ({class_id})" if label in labels.values() else label
    return labels


def gallery_item(prediction: Prediction, iou: float | None) -> GalleryItem:
    """Return a prediction as images of the target's size; `kind` stays empty.

    Args:
        prediction: made with `similarity` and `references`.
        iou: 0..1, for its title.
    """
    if prediction.reference is None:
        raise ValueError("The prediction has no reference to draw: ask predict_episodes for it.")
    task, image_size = prediction.task, prediction.target.mask.shape
    is_wrong = "wrong_reference" in prediction.logits
    return GalleryItem(
        kind="",
        title=f"{task.episode.class_id}: {task.episode.target}",
        reference=prediction.reference.image,
        reference_mask=prediction.reference.mask,
        target=prediction.target.image,
        similarity=similarity_on_image(prediction, image_size),
        prediction=predicted_mask(prediction, "segic", image_size),
        truth=prediction.target.mask,
        iou=iou,
        wrong_prediction=predicted_mask(prediction, "wrong_reference", image_size) if is_wrong else None,
        wrong_class="" if task.wrong_reference is None else str(task.wrong_reference.class_id),
    )
