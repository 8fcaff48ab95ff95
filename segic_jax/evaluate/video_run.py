"""Video benchmarks: every clip followed from its first annotation, palette PNGs, J&F where truth is here.

    <out>/predictions/<video>/<frame>.png    for the official tools
    <out>/result.json, per_object.csv, official.csv (as vos_benchmark writes it)
    <out>/submission.zip                     Annotations/<video>/<frame>.png, where a server has the truth

A video is done when its folder is whole and its row is on disk; a killed run goes on with the next one.
"""

import csv
import io
import json
import shutil
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Integer
from PIL import Image
from tqdm import tqdm

import segic_jax
from segic_jax.data.benchmark import Benchmark
from segic_jax.data.episodes import DataError
from segic_jax.data.files import require_size
from segic_jax.data.video import Clip, VideoSource
from segic_jax.distributed import is_main
from segic_jax.evaluate.records import Records, environment, in_domain, model_identity
from segic_jax.evaluate.report import whole_write
from segic_jax.evaluate.video import Semantics, follow
from segic_jax.evaluate.video_metrics import Benchmark as Scores
from segic_jax.evaluate.video_metrics import ObjectRow, Video, to_csv
from segic_jax.evaluate.video_metrics import benchmark as jf_benchmark
from segic_jax.weights.bundle import Bundle

AHEAD = 4  # frames read before they are needed


def evaluate_video(
    bundle: Bundle,
    source: VideoSource,
    *,
    benchmark: Benchmark,
    semantics: Semantics,
    out: Path,
    limit: int | None = None,
) -> dict:
    """Segment all clips, write `out` and give the content of its result.json.

    The first and the last frame of a clip are not scored (train.py:506). Several hosts share the clips.

    Args:
        semantics: see `evaluate.video.follow`.
        limit: only the first clips of the list.

    Raises:
        DataError: a file is missing or damaged; clips that are done are kept. Or `out` holds another run.
        BundleError: the model has no feature of the instance prompt.
    """
    begin = time.perf_counter()
    clips = source.videos()[:limit]
    if not clips:
        raise DataError(f"{source.name} has no videos.")
    identity = {
        "benchmark": benchmark.name,
        "semantics": semantics,
        "model": model_identity(bundle),
        "videos": [[clip.name, len(clip.frames)] for clip in source.videos()],
        "version": segic_jax.__version__,
    }
    records = Records(out, identity)
    todo = [i for i in range(len(clips)) if i not in records.done][jax.process_index() :: jax.process_count()]
    predictions = out / "predictions"
    kept = len(clips) - len(todo)
    bar = tqdm(total=len(clips), initial=kept, desc=source.name, unit="video", disable=not is_main())
    jf = [one[1] for row in records.done.values() for one in row["objects"]]
    try:
        for i in todo:
            row = _segment(bundle, source, clips[i], predictions, semantics) | {"index": i}
            records.add([row])
            jf += [one[1] for one in row["objects"]]
            if jf:
                bar.set_postfix({"J&F": f"{np.mean(jf):.1f}"}, refresh=False)
            bar.update()
    finally:
        records.close()
        bar.close()
    done = records.gathered()
    rows = [done[i] for i in range(len(clips))]

    scored = [clip.scored for clip in clips]
    frames, seconds = (sum(row[key] for row in rows) for key in ("frames", "seconds"))
    result = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "protocol": {"name": semantics, "skipped_frames": "first and last"},
        "in_domain": in_domain(bundle, benchmark.pictures),
        "videos": len(clips),
        "videos_in_list": len(source.videos()),
        "frames": frames,
        "frames_per_second": round(frames / max(seconds, 1e-9), 2),
        "model": model_identity(bundle) | {"notes": bundle.notes},
        "environment": environment(),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if all(scored):
        result["scores"] = _scores(rows)
    else:
        result["notes"] = [
            "Not all frames have a label map here, so there are no scores: hand submission.zip to the "
            "benchmark's server."
        ]
    if is_main():
        if all(scored):
            _write_scores(out, rows)
        else:
            _write_submission(out, clips, predictions)
        whole_write(out / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def table(result: dict) -> str:
    """The scores as aligned lines."""
    lines = [
        f"{result['benchmark']}: {result['videos']} videos, {result['frames']} frames, "
        f"{result['frames_per_second']} a second, semantics {result['protocol']['name']}"
    ]
    if "scores" in result:
        scores = result["scores"]
        low, high = scores["interval_95"]
        lines.append(
            f"  J&F {scores['jf']:.1f}   95 % interval {low:.1f} - {high:.1f}   "
            f"J {scores['j']:.1f}   F {scores['f']:.1f}   {scores['objects']} objects"
        )
    return "\n".join([*lines, *(f"  {note}" for note in result.get("notes", []))])


def _segment(
    bundle: Bundle, source: VideoSource, clip: Clip, predictions: Path, semantics: Semantics
) -> dict:
    """Write one clip's maps and give its row."""
    begin = time.perf_counter()
    final, part = predictions / clip.name, predictions / f"{clip.name}.part"
    for folder in (final, part):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    annotations = _Annotations(source, clip)
    palette = Image.open(clip.annotations[min(clip.annotations)]).getpalette()
    frames = _ahead(lambda number: source.frame(clip, number), len(clip.frames))

    def written() -> Iterator[Integer[np.ndarray, "height width"]]:
        found = follow(bundle, frames, annotations, semantics=semantics)
        for path, index in zip(clip.frames, found, strict=True):
            _write_map(part / f"{path.stem}.png", index, palette)
            yield index

    objects: list[ObjectRow] = []
    if clip.scored:
        truth = _ahead(lambda number: source.annotation(clip, number), len(clip.frames))
        try:
            objects = jf_benchmark([Video(clip.name, truth, written())]).objects
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{clip.frames[0].parent}: {error}; get the video again.") from error
    else:
        deque(written(), maxlen=0)
    part.replace(final)
    return {
        "video": clip.name,
        "frames": len(clip.frames),
        "seconds": round(time.perf_counter() - begin, 3),
        "objects": [[one.object_id, one.jf, one.j, one.f] for one in objects],
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


def _ahead(read: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`read(0)`, `read(1)`, ... while a thread reads the next few."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = deque(pool.submit(read, number) for number in range(min(AHEAD, count)))
        for number in range(count):
            if number + AHEAD < count:
                waiting.append(pool.submit(read, number + AHEAD))
            yield waiting.popleft().result()


def _write_map(path: Path, index: Integer[np.ndarray, "height width"], palette: list[int] | None) -> None:
    image = Image.fromarray(index.astype(np.uint8))
    if palette is not None:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette(palette)
    image.save(path)


def _scores(rows: Sequence[dict]) -> dict:
    """Means over all objects of all videos; the interval draws videos anew, 1000 times."""
    objects = [one for row in rows for one in row["objects"]]
    if not objects:
        raise DataError("No video has an object in its scored frames: look at the label maps.")
    _, jf, j, f = np.array(objects, float).T
    sums = np.array([[sum(one[1] for one in row["objects"]), len(row["objects"])] for row in rows])
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


def _write_scores(out: Path, rows: Sequence[dict]) -> None:
    objects = [ObjectRow(row["video"], *one) for row in rows for one in row["objects"]]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["video", "object", "jf", "j", "f"])
    writer.writerows(objects)
    whole_write(out / "per_object.csv", table.getvalue().encode())
    j, f = (float(np.mean([getattr(one, key) for one in objects])) for key in ("j", "f"))
    official = to_csv(Scores((j + f) / 2, j, f, objects, [row["video"] for row in rows]))
    whole_write(out / "official.csv", official.encode())


def _write_submission(out: Path, clips: Sequence[Clip], predictions: Path) -> None:
    part = out / "submission.zip.part"
    with zipfile.ZipFile(part, "w") as archive:  # PNGs are compressed already
        for clip in clips:
            for number in sorted(clip.required):
                name = f"{clip.name}/{clip.frames[number].stem}.png"
                archive.write(predictions / name, f"Annotations/{name}")
    part.replace(out / "submission.zip")
