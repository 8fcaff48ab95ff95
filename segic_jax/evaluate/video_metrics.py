"""Compute J and F of the DAVIS protocol from label maps, for objects, videos and whole benchmarks.

J is the IoU of an object's region, F the F-measure of its outline. Two tools count objects and frames
differently: `object_rows` follows the one that the official code calls (train.py:473-510,
vos_benchmark/evaluator.py), `davis_rows` davis2017-evaluation. Frames are read once, in order.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise, zip_longest
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from segic_jax.errors import InputError

LabelMap = Integer[np.ndarray, "_ _"]  # [height, width]; 0 is background, other numbers are objects

TOLERANCE = 0.008  # outlines agree where they are this close, as a share of the diagonal


class ObjectScore(NamedTuple):
    """Hold the scores of one object in one video, 0..1 in each frame from `first` on."""

    j_frames: list[float]
    f_frames: list[float]
    first: int  # the frame where truth or prediction has it first; earlier frames do not count
    in_truth: bool  # in any counted frame; `object_rows` leaves an object out that is only predicted
    in_prediction: bool

    @property
    def j(self) -> float:
        """Return the mean J over frames, in per cent."""
        return float(np.mean(self.j_frames) * 100)

    @property
    def f(self) -> float:
        """Return the mean F over frames, in per cent."""
        return float(np.mean(self.f_frames) * 100)


class Video(NamedTuple):
    """Hold the frames of a video in order: an array [frames, height, width] or any iterable of label maps."""

    name: str
    truth: Iterable[LabelMap]
    prediction: Iterable[LabelMap]


class ObjectRow(NamedTuple):
    """Hold a line of a benchmark's table; scores in per cent."""

    video: str
    object_id: int
    jf: float
    j: float
    f: float


class VideoScores(NamedTuple):
    """Hold means over all objects of all videos, in per cent; NaN where there is no object."""

    jf: float
    j: float
    f: float
    objects: list[ObjectRow]
    videos: list[str]  # names of all videos, also of those without an object


def score_video(truth: Iterable[LabelMap], prediction: Iterable[LabelMap]) -> dict[int, ObjectScore]:
    """Score every object that truth or prediction has, by object number, ascending.

    Raises:
        ValueError: the two have different numbers of frames, or frames of different sizes.
    """
    j, f, first = {}, {}, {}
    in_truth, in_prediction = set(), set()
    for number, (true, predicted) in enumerate(zip_longest(truth, prediction)):
        if true is None or predicted is None:
            raise ValueError(f"the {'truth' if true is None else 'prediction'} ends after {number} frames")
        if true.shape != predicted.shape:
            raise ValueError(f"frame {number}: truth is {true.shape} pixels, prediction {predicted.shape}")
        in_truth |= set(np.unique(true).tolist()) - {0}
        in_prediction |= set(np.unique(predicted).tolist()) - {0}
        for new in (in_truth | in_prediction) - set(first):
            j[new], f[new], first[new] = [], [], number
        if first:
            masks = (np.array([frame == object_id for object_id in first]) for frame in (true, predicted))
            scores = frame_scores(*masks)
            for object_id, region, contour in zip(first, *scores, strict=True):
                j[object_id].append(float(region))
                f[object_id].append(float(contour))
    return {i: ObjectScore(j[i], f[i], first[i], i in in_truth, i in in_prediction) for i in sorted(first)}


def object_rows(video: str, scores: Mapping[int, ObjectScore]) -> list[ObjectRow]:
    """Return a row for each object of the truth, each from the frame on where it is first seen."""
    return [_row(video, object_id, score) for object_id, score in scores.items() if score.in_truth]


def davis_rows(
    video: str, scores: Mapping[int, ObjectScore], objects: int, frames: int
) -> list[ObjectRow] | None:
    """Return the rows of davis2017-evaluation: objects 1 to `objects`, each in all frames.

    A frame counts 1 where neither side has the object, also before it is first seen.

    Args:
        objects: the highest number in the first annotation, which is not scored itself; 255 is no object.
        frames: how many are scored, the frames of `scores`.

    Returns:
        None where the prediction has a higher number: that tool ends without scores.
    """
    if any(score.in_prediction and object_id > objects for object_id, score in scores.items()):
        return None
    unseen = ObjectScore([], [], frames, False, False)
    rows = []
    for object_id in range(1, objects + 1):
        score = scores.get(object_id, unseen)
        before = [1.0] * score.first
        complete = score._replace(j_frames=before + score.j_frames, f_frames=before + score.f_frames)
        rows.append(_row(video, object_id, complete))
    return rows


def _row(video: str, object_id: int, score: ObjectScore) -> ObjectRow:
    return ObjectRow(video, object_id, (score.j + score.f) / 2, score.j, score.f)


def frame_scores(
    truth: Bool[np.ndarray, "objects height width"], prediction: Bool[np.ndarray, "objects height width"]
) -> tuple[Float[np.ndarray, " objects"], Float[np.ndarray, " objects"]]:
    """Return J and F of each object in one frame, 0..1; both are 1 where it is in neither."""
    union = (truth | prediction).sum((1, 2))
    j = np.where(union, (truth & prediction).sum((1, 2)) / np.maximum(union, 1), 1.0)

    true_outline, predicted_outline = outline(truth), outline(prediction)
    disk = disk_kernel(int(np.ceil(TOLERANCE * np.hypot(*truth.shape[1:]))))
    true_length, predicted_length = true_outline.sum((1, 2)), predicted_outline.sum((1, 2))
    near_truth, near_prediction = _dilate(true_outline, disk), _dilate(predicted_outline, disk)
    precision = (predicted_outline & near_truth).sum((1, 2)) / np.maximum(predicted_length, 1)
    recall = (true_outline & near_prediction).sum((1, 2)) / np.maximum(true_length, 1)
    # Where only one of them has an outline, both are 0, and so is F.
    f = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return j, np.where((true_length == 0) & (predicted_length == 0), 1.0, f)


def outline(masks: Bool[np.ndarray, "*masks height width"]) -> Bool[np.ndarray, "*masks height width"]:
    """Mark pixels unlike the one to the right, below or right below (utils.py:5-64); borders do not count."""
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(0, 1), (0, 1)], mode="edge")
    here = padded[..., :-1, :-1]
    return (here != padded[..., :-1, 1:]) | (here != padded[..., 1:, :-1]) | (here != padded[..., 1:, 1:])


def disk_kernel(radius: int) -> UInt8[np.ndarray, "size size"]:
    """Return a square with 1 within `radius` of the centre, inclusive."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)


def _dilate(masks: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.array([cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in masks])


def score_videos(videos: Iterable[Video], *, skip_ends: bool = True) -> VideoScores:
    """Compute J&F over a set of videos.

    Args:
        skip_ends: leave out the first frame, which is given, and the last (DAVIS, semi-supervised).

    Raises:
        ValueError: as `score_video`, with the video's name before it.
    """
    names, rows = [], []
    for name, truth, prediction in videos:
        names.append(name)
        if skip_ends:
            truth, prediction = _without_ends(truth), _without_ends(prediction)
        try:
            scores = score_video(truth, prediction)
        except InputError:  # a frame cannot be read
            raise
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        rows += object_rows(name, scores)
    j = float(np.mean([row.j for row in rows])) if rows else float("nan")
    f = float(np.mean([row.f for row in rows])) if rows else float("nan")
    return VideoScores((j + f) / 2, j, f, rows, names)


def _without_ends(frames: Iterable[LabelMap]) -> Iterator[LabelMap]:
    for frame, _ in pairwise(islice(frames, 1, None)):
        yield frame


def official_csv(result: VideoScores) -> str:
    """Return the table as the official tool writes it (vos_benchmark/benchmark.py)."""
    width = max(len(name) for name in (*result.videos, "Global score"))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(f"{'Global score':<{width}},   , {result.jf:.1f}, {result.j:.1f}, {result.f:.1f}")
    for video, object_id, jf, j, f in result.objects:
        lines.append(f"{video:<{width}},{object_id:03}, {jf:>4.1f}, {j:>4.1f}, {f:>4.1f}")
    return "\n".join(lines) + "\n"
