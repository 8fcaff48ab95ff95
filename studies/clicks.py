"""Measure corrections on a folder of images: `python -m studies.clicks --data-root DIR`.

A simulated user clicks at the middle of the largest error, a region that is missing from the mask or does not
belong to it, and sees the corrected mask before the next click. A box is that of the true mask.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from jaxtyping import Bool

from segic_jax.commands.command_line import run_command
from segic_jax.data.sources.folder import FolderSource
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.inference.example import Example
from segic_jax.inference.result import Click, Result
from segic_jax.inference.segmenter import Segmenter


def next_click(
    mask: Bool[np.ndarray, "height width"], truth: Bool[np.ndarray, "height width"]
) -> Click | None:
    """Return the place inside the largest error that is farthest from its border; None if there is none."""
    largest, click = 0, None
    for error, inside in ((truth & ~mask, True), (mask & ~truth, False)):
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(error.view(np.uint8))
        areas = statistics[1:, cv2.CC_STAT_AREA]
        if len(areas) and areas.max() > largest:
            largest = areas.max()
            region = np.pad(labels == 1 + areas.argmax(), 1)
            distance = cv2.distanceTransform(region.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            y, x = np.unravel_index(distance[1:-1, 1:-1].argmax(), mask.shape)
            click = Click(float(x), float(y), inside)
    return click


def true_box(truth: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1) around a mask."""
    x, y, w, h = cv2.boundingRect(truth.view(np.uint8))
    return x, y, x + w, y + h


def correct(
    segmenter: Segmenter, result: Result, truth: Bool[np.ndarray, "height width"], clicks: int
) -> dict[str, float]:
    """Return the IoU before corrections, after a box, and after each click."""
    ious = {"plain": mask_iou(result.mask(0), truth)}
    ious["box"] = mask_iou(segmenter.refine(result, box=true_box(truth)).mask(0), truth)
    for number in range(1, clicks + 1):
        click = next_click(result.mask(0), truth)
        if click is not None:
            result = segmenter.refine(result, points=[click])
        ious[f"{number} click{'s' * (number > 1)}"] = mask_iou(result.mask(0), truth)
    return ious


def mean_over_classes(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, float]:
    """Return the means in per cent, first over the images of a class."""
    names = next(iter(rows.values()))[0]
    return {
        name: 100 * float(np.mean([np.mean([row[name] for row in part]) for part in rows.values()]))
        for name in names
    }


@dataclass
class Args:
    """Print the mean IoU in per cent, plain and after each correction."""

    data_root: Path
    """A folder with a folder for each class, as for `segic eval --benchmark folder`."""
    weights: str = "photo"
    """A name from `segic weights list`, or a model file."""
    clicks: int = 3
    """How many clicks for each image."""


def main(args: Args) -> None:
    """Print a line for each class, and the means."""
    segmenter = Segmenter.load(args.weights)
    source = FolderSource(args.data_root)
    rows: dict[str, list[dict[str, float]]] = {}
    for episode in source.manifest("original", 0, 1).episodes:
        reference, target = source.load(episode.reference_views[0]), source.load(episode.target_view)
        context = segmenter.fit(Example(reference.image, reference.mask))
        result = segmenter.predict(target.image, context, keep_absent=True)
        row = correct(segmenter, result, target.mask, args.clicks)
        rows.setdefault(str(episode.class_id), []).append(row)
    for name, part in [*rows.items(), ("mean over the classes", None)]:
        means = mean_over_classes({name: part} if part else rows)
        print(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in means.items()), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
