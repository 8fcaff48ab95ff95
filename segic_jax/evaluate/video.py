"""Video benchmarks: every clip followed from its first annotation, palette PNGs, J&F where truth is here.

    <out>/predictions/<video>/<frame>.png    for the official tools
    <out>/result.json, report.html, episodes.jsonl (a line a video)
    <out>/per_object.csv, official.csv (as vos_benchmark writes it)
    <out>/submission.zip                     Annotations/<video>/<frame>.png, where a server has the truth

A video is done when its folder is whole and its row is on disk; a killed run goes on with the next one.
"""

import csv
import io
import json
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Integer
from PIL import Image

import segic_jax
from segic_jax.config import INSTANCE_PROMPT
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.image_files import require_size
from segic_jax.data.video import Clip, VideoSource
from segic_jax.errors import DataError, InputError
from segic_jax.evaluate.records import (
    Records,
    environment,
    in_domain,
    list_hash,
    model_identity,
    spread,
)
from segic_jax.evaluate.report import render
from segic_jax.evaluate.video_metrics import ObjectRow, Video, to_csv
from segic_jax.evaluate.video_metrics import VideoScores as Scores
from segic_jax.evaluate.video_metrics import score_videos as jf_benchmark
from segic_jax.inference.engine import Engine
from segic_jax.inference.tracker import Semantics, object_prompt, track_annotations
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_folder, atomic_path, atomic_write
from segic_jax.runtime.distributed import is_main_host, raise_on_all_hosts
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

AHEAD = 4  # frames read before they are needed


def evaluate_video(
    bundle: Bundle,
    source: VideoSource,
    *,
    benchmark: BenchmarkSpec,
    semantics: Semantics,
    out: Path,
    limit: int | None = None,
) -> dict:
    """Segment all clips, write `out` and give the content of its result.json.

    The first and the last frame of a clip are not scored (train.py:506). Several hosts share the clips.

    Args:
        semantics: see `evaluate.video.follow`.
        limit: only about every len / limit-th clip.

    Raises:
        ConfigError: `limit` below 1.
        DataError: a file is missing or damaged; clips that are done are kept. Or `out` holds another run.
    """
    begin = time.perf_counter()
    listed = source.videos()
    if not listed:
        raise DataError(f"{source.name} has no videos.")
    chosen = spread(range(len(listed)), limit)
    identity = {
        "benchmark": benchmark.name,
        "semantics": semantics,
        "model": model_identity(bundle),
        "videos": list_hash([[clip.name, len(clip.frames)] for clip in listed]),
        "version": segic_jax.__version__,
    }
    engine, prompt = Engine(bundle, jax.local_devices()[:1]), object_prompt(bundle)
    predictions = out / "predictions"
    with Records(out, identity) as records:
        kept = [records.done[i] for i in chosen if i in records.done]
        todo = [i for i in chosen if i not in records.done][jax.process_index() :: jax.process_count()]
        bar = progress.bar(
            total=len(kept) + len(todo),
            initial=len(kept),
            desc=source.name,
            unit="video",
            enabled=is_main_host(),
        )
        jf = [one["jf"] for row in kept for one in row["objects"]]
        with raise_on_all_hosts(), closing(bar):
            for i in todo:
                row: dict = {"index": i} | _segment(engine, source, listed[i], predictions, semantics, prompt)
                records.add(row)
                jf += [one["jf"] for one in row["objects"]]
                if jf:
                    bar.set_postfix({"J&F": f"{np.mean(jf):.1f}"}, refresh=False)
                bar.update()
        done = records.gathered()
    rows = [done[i] for i in chosen]

    scored = all(listed[i].scored for i in chosen)
    frames, seconds = (sum(row[key] for row in rows) for key in ("frames", "seconds"))
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "protocol": {
            "name": semantics,
            "skipped_frames": "first and last",
            "source": "SegIC model/segic.py:804-990, train.py:473-510",
        },
        "class_names_given": False,  # the prompt is one sentence for all objects
        "in_domain": in_domain(bundle, benchmark.domain),
        "manifest": {"sha256": identity["videos"]},
        "videos": len(rows),
        "videos_in_list": len(listed),
        "frames": frames,
        "frames_per_second": round(frames / max(seconds, 1e-9), 2),
        "scores": _scores(rows) if scored else None,
        "notes": [],
        "model": model_identity(bundle) | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if prompt != INSTANCE_PROMPT:
        result["notes"].append(
            f"{bundle.name} does not know the sentence {INSTANCE_PROMPT!r}: the empty prompt stood for it."
        )
    if not scored:
        result["notes"].append(
            "Not all frames have a label map here, so there are no scores: hand submission.zip to the "
            "benchmark's server."
        )
    if is_main_host():
        _write(out, result, rows)
        if not scored:
            _write_submission(out, [listed[i] for i in chosen], predictions)
    return result


def table(result: dict) -> str:
    """The scores as aligned lines."""
    lines = [
        f"{result['benchmark']}: {result['videos']} videos, {result['frames']} frames, "
        f"{result['frames_per_second']} a second, semantics {result['protocol']['name']}"
    ]
    scores = result["scores"]
    if scores:
        low, high = scores["interval_95"]
        lines.append(
            f"  J&F {scores['jf']:.1f}   95 % interval {low:.1f} - {high:.1f}   "
            f"J {scores['j']:.1f}   F {scores['f']:.1f}   {scores['objects']} objects"
        )
    return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def _segment(
    engine: Engine,
    source: VideoSource,
    clip: Clip,
    predictions: Path,
    semantics: Semantics,
    prompt: str,
) -> dict:
    """Write one clip's maps and give its row."""
    begin = time.perf_counter()
    with atomic_folder(predictions / clip.name) as folder:
        annotations = _Annotations(source, clip)
        palette = source.palette(clip)
        frames = _read_ahead(lambda number: source.frame(clip, number), len(clip.frames))

        def written() -> Iterator[Integer[np.ndarray, "height width"]]:
            found = track_annotations(engine, frames, annotations, semantics=semantics, prompt=prompt)
            for path, index in zip(clip.frames, found, strict=True):
                _write_map(folder / f"{path.stem}.png", index, palette)
                yield index

        objects: list[ObjectRow] = []
        if clip.scored:
            truth = _read_ahead(lambda number: source.annotation(clip, number), len(clip.frames))
            try:
                objects = jf_benchmark([Video(clip.name, truth, written())]).objects
            except InputError:
                raise
            except ValueError as error:
                raise DataError(f"{clip.frames[0].parent.parent} / {error}; get the video again.") from error
        else:
            deque(written(), maxlen=0)
    return {
        "video": clip.name,
        "frames": len(clip.frames),
        "seconds": round(time.perf_counter() - begin, 3),
        "objects": [{"object": one.object_id, "jf": one.jf, "j": one.j, "f": one.f} for one in objects],
    }


class _Annotations(dict):
    """Frame number -> label map, read when it is asked for; the size is checked against the frame's."""

    def __init__(self, source: VideoSource, clip: Clip):
        super().__init__(clip.annotations)
        self._source, self._clip = source, clip

    def __getitem__(self, number: int) -> Integer[np.ndarray, "height width"]:
        labels = self._source.annotation(self._clip, number)
        frame = self._source.frame(self._clip, number)
        require_size(frame, labels, self._clip.frames[number], self._clip.annotations[number])
        return labels


def _read_ahead(read: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`read(0)`, `read(1)`, ... while a thread reads the next few."""
    return prefetch_results(read, range(count), limit=AHEAD)


def _write_map(path: Path, index: Integer[np.ndarray, "height width"], palette: list[int] | None) -> None:
    if index.max() > 255:
        raise DataError(f"{path}: object {index.max()} has no place in a palette of 256 colours.")
    image = Image.fromarray(index.astype(np.uint8))
    if palette is not None:
        image.putpalette(palette)
    png = io.BytesIO()
    image.save(png, "PNG")
    atomic_write(path, png.getvalue())


def _scores(rows: Sequence[dict]) -> dict:
    """Means over all objects of all videos; the interval draws videos anew, 1000 times."""
    objects = [one for row in rows for one in row["objects"]]
    if not objects:
        raise DataError("No video has an object in its scored frames: look at the label maps.")
    jf, j, f = (np.array([one[key] for one in objects]) for key in ("jf", "j", "f"))
    sums = np.array([[sum(one["jf"] for one in row["objects"]), len(row["objects"])] for row in rows])
    drawn = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))
    totals = sums[drawn].sum(1)
    means = totals[:, 0] / np.maximum(totals[:, 1], 1)
    return {
        "jf": round(float(jf.mean()), 2),
        "j": round(float(j.mean()), 2),
        "f": round(float(f.mean()), 2),
        "interval_95": [round(float(end), 2) for end in np.percentile(means, [2.5, 97.5])],
        "objects": len(objects),
    }


def _write(out: Path, result: dict, rows: Sequence[dict]) -> None:
    lines = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    means = [(row["video"], np.mean([one["jf"] for one in row["objects"]])) for row in rows if row["objects"]]
    objects = [ObjectRow(row["video"], *one.values()) for row in rows for one in row["objects"]]
    bars = sorted(means, key=lambda one: -one[1])
    page = render("video.html.j2", result, bars, [one.jf / 100 for one in objects])
    atomic_write(out / "episodes.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    atomic_write(out / "report.html", page.encode())
    if result["scores"]:
        _write_scores(out, objects, [row["video"] for row in rows])
    atomic_write(out / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def _write_scores(out: Path, objects: list[ObjectRow], videos: list[str]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["video", "object", "jf", "j", "f"])
    writer.writerows(objects)
    atomic_write(out / "per_object.csv", table.getvalue().encode())
    j, f = (float(np.mean([getattr(one, key) for one in objects])) for key in ("j", "f"))
    official = to_csv(Scores((j + f) / 2, j, f, objects, videos))
    atomic_write(out / "official.csv", official.encode())


def _write_submission(out: Path, clips: Sequence[Clip], predictions: Path) -> None:
    path = out / "submission.zip"
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:  # PNGs are compressed already
        for clip in clips:
            for number in sorted(clip.required):
                name = f"{clip.name}/{clip.frames[number].stem}.png"
                archive.write(predictions / name, f"Annotations/{name}")
