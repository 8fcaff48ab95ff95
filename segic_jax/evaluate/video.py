"""Evaluate video object segmentation: track the objects of a first annotation, and score J&F.

<out>/predictions/<video>/<frame>.png    palette PNGs, for the official tools
<out>/per_object.csv, official.csv       scores of each object, the second as vos_benchmark writes it
<out>/submission.zip                     Annotations/<video>/<frame>.png, where a server has the truth

A video is done when its folder is complete and its row is on disk.
"""

import io
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import tee
from pathlib import Path
from threading import Lock

import jax
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from segic_jax.config import INSTANCE_PROMPT, Precision
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.masks import resize_nearest
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError
from segic_jax.evaluate import report
from segic_jax.evaluate.clip_annotations import ClipAnnotations
from segic_jax.evaluate.metrics import bootstrap_interval
from segic_jax.evaluate.runner import defects_note, list_defects, list_hash
from segic_jax.evaluate.video_metrics import (
    ObjectRow,
    ObjectScore,
    VideoScores,
    davis_rows,
    object_rows,
    official_csv,
    score_video,
)
from segic_jax.inference.engine import Engine
from segic_jax.inference.tracker import Semantics, object_prompt, track_annotations
from segic_jax.runtime.atomic_write import atomic_folder, atomic_write
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

FRAMES_AHEAD = 4  # frames read before they are needed
VOID = 255  # no object in annotations of DAVIS


class VideoEvaluation:
    """Evaluate the clips of a video benchmark; see `runner.Evaluation`.

    The first and the last frame of a clip are not scored (train.py:506).
    """

    unit = "video"
    score_name = "J&F"

    def __init__(
        self,
        bundle: Bundle,
        benchmark: BenchmarkSpec,
        source: VideoSource,
        *,
        semantics: Semantics,
        precision: Precision = "auto",
    ):
        """List the clips.

        Args:
            semantics: see `inference.tracker.track_annotations`.
            precision: of the backbone; see `inference.engine.Engine`.

        Raises:
            DataError: there are no videos.
        """
        self.bundle, self.benchmark = bundle, benchmark
        self._source, self._semantics = source, semantics
        self._clips = source.videos()
        if not self._clips:
            raise DataError(f"{source.name} has no videos.")
        self._hash = list_hash([[clip.name, len(clip.frames)] for clip in self._clips])
        self._prompt = object_prompt(bundle)
        self._engine = Engine(bundle, jax.local_devices()[:1], precision)  # one video at a time

    def __len__(self) -> int:
        """Return the number of videos in the list."""
        return len(self._clips)

    def identity(self) -> dict:
        """Return everything the rows depend on besides benchmark, model and version."""
        return {"semantics": self._semantics, "videos": self._hash, "precision": self._engine.precision}

    def settings(self) -> dict:
        """Return the first entries of the result."""
        return {
            "protocol": {
                "name": self._semantics,
                "skipped_frames": "first and last",
                "canvas": "float32" if self._semantics == "official" else "rounded to uint8",
                "source": "SegIC model/segic.py:804-990, train.py:473-510",
            },
            "class_names_given": False,  # the prompt is one sentence for all objects
            "precision": self._engine.precision,
        }

    def prepare(self, indices: Sequence[int], out: Path) -> None:
        """Do nothing: a missing file is named when its video is read."""

    def rows(self, indices: Sequence[int], out: Path) -> Iterator[dict]:
        """Write the label maps of each video and yield its scores."""
        for index in indices:
            yield {"index": index} | self._track(self._engine, self._clips[index], out / "predictions")

    def _track(self, engine: Engine, clip: Clip, predictions: Path) -> dict:
        """Write one clip's label maps and return its row."""
        start = time.perf_counter()
        notes = list(clip.notes)
        with atomic_folder(predictions / clip.name) as folder:
            scores, objects = self._write_predictions(engine, clip, folder, notes)
        row: dict[str, object] = {
            "video": clip.name,
            "frames": len(clip.frames),
            "seconds": round(time.perf_counter() - start, 3),
            "objects": _to_json(object_rows(clip.name, scores)),
        }
        if self._has_davis_scores(clip):
            rows = davis_rows(clip.name, scores, objects, len(_scored_frames(clip)))
            row["davis2017"] = None if rows is None else _to_json(rows)
        return {
            **row,
            **({"notes": list(dict.fromkeys(notes))} if notes else {}),
        }

    def _has_davis_scores(self, clip: Clip) -> bool:
        return clip.scored and self.benchmark.name == "davis17"

    def _write_predictions(
        self, engine: Engine, clip: Clip, folder: Path, notes: list[str]
    ) -> tuple[dict[int, ObjectScore], int]:
        """Write a label map for each frame, and score them while they are written.

        Args:
            notes: gets a sentence for each label map that is handled.

        Returns:
            The scores, and the highest number of an object in the first annotation.
        """
        palette = self._source.palette(clip)
        # The tracker and the scores read the same label maps, in two threads.
        cached, lock = lru_cache(2 * FRAMES_AHEAD)(partial(self._source.annotation, clip)), Lock()

        def read_labels(number: int) -> Integer[np.ndarray, "height width"]:
            with lock:
                return cached(number)

        first_labels = read_labels(min(clip.annotations))

        canvas = engine.config.canvas if self._semantics == "official" else None
        annotations = ClipAnnotations(self._source, clip, read_labels, canvas, notes)

        def frames() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
            images = _read_ahead(partial(self._source.frame, clip), range(len(clip.frames)))
            for number, frame in enumerate(images):
                annotations.current = (number, frame)
                yield frame

        def predict() -> Iterator[Integer[np.ndarray, "height width"]]:
            maps = track_annotations(
                engine, frames(), annotations, semantics=self._semantics, prompt=self._prompt
            )
            for path, labels in zip(clip.frames, maps, strict=True):
                write_label_map(folder / f"{path.stem}.png", labels, palette)
                yield labels

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            """Yield truth and prediction of every frame that is scored, both of one size."""
            numbers = _scored_frames(clip)
            truths = _read_ahead(read_labels, numbers)
            for number, predicted in enumerate(predict()):
                if number not in numbers:
                    continue
                truth, path = next(truths), clip.annotations[number]
                if truth.shape != predicted.shape:
                    notes.append(
                        f"{path} is {truth.shape[1]} x {truth.shape[0]} pixels, its prediction "
                        f"{predicted.shape[1]} x {predicted.shape[0]}: it is resized to that, nearest pixel."
                    )
                    truth = resize_nearest(truth, *predicted.shape)
                yield truth, predicted

        # Both are consumed in step, a frame at a time.
        first, second = tee(pairs())
        truth, prediction = (pair[0] for pair in first), (pair[1] for pair in second)
        objects = int(first_labels[first_labels != VOID].max(initial=0))
        return score_video(truth, prediction), objects

    def running_score(self) -> Callable[[dict], float]:
        """Return a function that takes each row and returns the J&F so far, in per cent."""
        scores: list[float] = []

        def score(row: dict) -> float:
            scores.extend(scored["jf"] for scored in row["objects"])
            return float(np.mean(scores)) if scores else float("nan")

        return score

    def summarise(self, rows: Sequence[dict]) -> dict:
        """Return counts, scores and notes of the result."""
        frames, seconds = (sum(row[key] for row in rows) for key in ("frames", "seconds"))
        scored = self._all_scored(rows)
        defects = list_defects(rows, self._source.left_out)
        notes = defects_note(defects)
        if self._prompt != INSTANCE_PROMPT:
            notes.append(
                f"{self.bundle.name} does not know the sentence {INSTANCE_PROMPT!r}: the empty prompt is "
                "used instead."
            )
        if not scored:
            notes.append(
                "Not all frames have a label map here, so there are no scores: upload submission.zip to the "
                "benchmark's server."
            )
        return {
            "manifest": {"sha256": self._hash},
            "videos": len(rows),
            "videos_in_list": len(self._clips),
            "frames": frames,
            "frames_per_second": round(frames / max(seconds, 1e-9), 2),
            "scores": summarise_videos(rows) if scored else None,
            **self._davis_scores(rows),
            "defects": defects,
            "notes": notes,
        }

    def _davis_scores(self, rows: Sequence[dict]) -> dict:
        """Return the means over objects as davis2017-evaluation counts; None where it refuses a video."""
        if not all(self._has_davis_scores(self._clips[row["index"]]) for row in rows):
            return {}
        if any(row["davis2017"] is None for row in rows):
            return {"davis2017_scores": None}
        objects = [scored for row in rows for scored in row["davis2017"]]
        means = {key: float(np.mean([scored[key] for scored in objects])) for key in ("jf", "j", "f")}
        return {"davis2017_scores": means | {"objects": len(objects)}}

    def _all_scored(self, rows: Sequence[dict]) -> bool:
        return all(self._clips[row["index"]].scored for row in rows)

    def files(self, result: dict, rows: Sequence[dict], out: Path) -> Iterator[tuple[str, bytes]]:
        """Yield report.html, and the tables of scores or, where there are none, submission.zip."""
        means = [
            (row["video"], np.mean([scored["jf"] for scored in row["objects"]]))
            for row in rows
            if row["objects"]
        ]
        objects = [ObjectRow(row["video"], *scored.values()) for row in rows for scored in row["objects"]]
        yield "report.html", report.render("video.html.j2", result, means, [row.jf / 100 for row in objects])
        if result["scores"]:
            yield "per_object.csv", report.to_csv(["video", "object", "jf", "j", "f"], objects)
            j, f = (float(np.mean([getattr(row, key) for row in objects])) for key in ("j", "f"))
            scores = VideoScores((j + f) / 2, j, f, objects, [row["video"] for row in rows])
            yield "official.csv", official_csv(scores).encode()
        else:
            clips = [self._clips[row["index"]] for row in rows]
            yield "submission.zip", _submission(out / "predictions", clips)

    def table(self, result: dict) -> str:
        """Return the scores as aligned lines for a terminal."""
        lines = [
            f"{result['benchmark']}: {result['videos']} videos, {result['frames']} frames, "
            f"{result['frames_per_second']} a second, semantics {result['protocol']['name']}"
        ]
        if scores := result["scores"]:
            low, high = scores["interval_95"]
            lines.append(
                f"  J&F {scores['jf']:.1f}   95 % interval {low:.1f} - {high:.1f}   "
                f"J {scores['j']:.1f}   F {scores['f']:.1f}   {scores['objects']} objects"
            )
        if davis := result.get("davis2017_scores"):
            lines.append(
                f"  as davis2017-evaluation counts: J&F {davis['jf']:.1f}   J {davis['j']:.1f}   "
                f"F {davis['f']:.1f}   {davis['objects']} objects"
            )
        return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _to_json(rows: Sequence[ObjectRow]) -> list[dict]:
    return [{"object": row.object_id, "jf": row.jf, "j": row.j, "f": row.f} for row in rows]


def _scored_frames(clip: Clip) -> list[int]:
    """Return the frames between the first and the last annotated one, if the clip is scored."""
    return sorted(clip.annotations)[1:-1] if clip.scored else []


def summarise_videos(rows: Sequence[dict]) -> dict:
    """Return means over all objects of all videos, in per cent; the interval resamples videos.

    Raises:
        DataError: no video has an object.
    """
    objects = [scored for row in rows for scored in row["objects"]]
    if not objects:
        raise DataError("No video has an object in its scored frames: check the label maps.")
    sums = np.array([sum(scored["jf"] for scored in row["objects"]) for row in rows])
    counts = np.array([len(row["objects"]) for row in rows])

    def mean_jf(repeats: Integer[np.ndarray, " videos"]) -> float:
        return float(repeats @ sums / max(repeats @ counts, 1))

    means = {key: float(np.mean([scored[key] for scored in objects])) for key in ("jf", "j", "f")}
    interval = list(bootstrap_interval((len(rows), mean_jf)))
    return means | {"interval_95": interval, "objects": len(objects)}


def _read_ahead(read: Callable[[int], np.ndarray], numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """Yield `read(number)` of each number while a thread reads the next few."""
    return prefetch_results(read, numbers, limit=FRAMES_AHEAD)


def write_label_map(
    path: Path, labels: Integer[np.ndarray, "height width"], palette: list[int] | None
) -> None:
    """Write a PNG whose pixels are object ids.

    Raises:
        DataError: an id above 255.
    """
    if labels.max() > 255:
        raise DataError(f"{path}: object {labels.max()} has no place in a palette of 256 colours.")
    image = Image.fromarray(labels.astype(np.uint8))
    if palette is not None:
        image.putpalette(palette)
    png = io.BytesIO()
    image.save(png, "PNG")
    atomic_write(path, png.getvalue())


def _submission(predictions: Path, clips: Sequence[Clip]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # PNGs are compressed already
        for clip in clips:
            for number in sorted(clip.required):
                name = f"{clip.name}/{clip.frames[number].stem}.png"
                archive.write(predictions / name, f"Annotations/{name}")
    return content.getvalue()
