"""Evaluate episodes: segment a class in a target as one or several references show it.

An episode's way: `make_tasks` -> `episode_stream.predict_episodes` (images to mask logits) ->
`protocols.prediction_row` (pixel counts) -> `protocols.summarise_rows` (scores).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from segic_jax.config import MethodChoice, Precision
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.episodes import (
    ClassId,
    EpisodeSource,
    Manifest,
    WithObjects,
    episodes_hash,
    require_files,
)
from segic_jax.errors import ConfigError
from segic_jax.evaluate import report
from segic_jax.evaluate.episode_report import LABELS, class_labels, gallery_item, score_table
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.instances import average_precisions, instance_row
from segic_jax.evaluate.metrics import RunningMeanIoU
from segic_jax.evaluate.protocols import (
    Protocol,
    find_protocol,
    prediction_row,
    summarise_rows,
    to_image_size,
)
from segic_jax.evaluate.report import GalleryItem
from segic_jax.evaluate.runner import (
    defects_note,
    host_share,
    list_defects,
    model_identity,
    spread,
    to_json,
)
from segic_jax.inference.engine import Engine
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.methods import make_engine
from segic_jax.inference.tiles import Tiles, require_tiles
from segic_jax.runtime.distributed import gather_json, raise_on_all_hosts
from segic_jax.weights.bundle import Bundle


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
        method: MethodChoice = "segic",
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
            method: of segmentation.

        Raises:
            ConfigError: `batch_size` below 1, `workers` below 0, no number of `tiles`, `instances` of a
                source that does not tell objects apart, or baselines or class names of the training-free
                method.
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
        if method != "segic" and (baselines or class_names):
            raise ConfigError(
                "The training-free method has no head and reads no text: leave --baselines and --class-names "
                "out."
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
        self._engine = make_engine(bundle, method, precision=precision)

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
        ways: dict[str, object] = {"tiles": self._tiles, "instances_from": self._instances}
        if settings := self._engine.method_settings():
            canvas = self._engine.config.canvas
            ways["method"] = {"name": self._engine.method, "canvas": canvas, **settings}
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
        defects = list_defects(rows, [note for manifest in manifests for note in manifest.notes])
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
            "defects": defects,
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
        return score_table(result, self._instances)


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
