"""Measure tiles on a real aerial image with boxes drawn by others: `python -m studies.aerial --data DIR`.

DIR has the photographs of trees inside the package deepforest (`deepforest/data`, MIT licence; images of the
National Ecological Observatory Network at 10 cm a pixel). A part of one image is the reference, with all
trees marked on it by their boxes; the other image is the target. A crown does not fill its box: a perfect
mask would have an IoU of about pi / 4 with the boxes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from segic_jax.commands.arguments import TilesOption
from segic_jax.commands.command_line import run_command
from segic_jax.data.annotations.lookup import draw_label, find_annotations
from segic_jax.data.images import read_image
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from studies.tiles import timed_predict

LABEL = "Tree"
REFERENCE = "2019_YELL_2_541000_4977000_image_crop.png"
TARGET = "2019_YELL_2_528000_4978000_image_crop2.png"


def read_boxes(
    image: Path,
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
    """Return an image and the union of the boxes that its XML has."""
    pixels = read_image(image)
    annotated, label = find_annotations(image.with_suffix(".xml"), image, LABEL)
    return pixels, draw_label(annotated, label, image, *pixels.shape[:2])


@dataclass
class Args:
    """Print IoU with the boxes, precision, recall, time and memory, plain and with tiles."""

    data: Path
    """The folder with the images and their XML files."""
    weights: str = "photo"
    """A name from `segic weights list`, or a model file."""
    tiles: tuple[TilesOption, ...] = (None, 3, "auto")
    """As for `segic predict`; None is the plain call."""
    side: int = 448
    """Pixels of the part of the reference."""


def main(args: Args) -> None:
    """Print a line for each number of tiles."""
    segmenter = Segmenter.load(args.weights)
    image, boxes = read_boxes(args.data / REFERENCE)
    top, left = ((length - args.side) // 2 for length in boxes.shape)
    part = np.s_[top : top + args.side, left : left + args.side]
    context = segmenter.fit(Example(image[part], boxes[part], name=LABEL))
    segmenter.predict(image[part], context)  # compiles
    image, boxes = read_boxes(args.data / TARGET)
    print(f"{image.shape[1]} x {image.shape[0]} pixels, {100 * boxes.mean():.1f} % of them in boxes")
    for tiles in args.tiles:
        result, seconds, megabytes = timed_predict(segmenter, image, context, tiles)
        mask = result.mask(0)
        common = np.count_nonzero(mask & boxes)
        print(
            f"tiles {tiles}: IoU {100 * mask_iou(mask, boxes):.1f}, "
            f"precision {100 * common / max(1, np.count_nonzero(mask)):.1f}, "
            f"recall {100 * common / np.count_nonzero(boxes):.1f}, "
            f"{seconds:.2f} s, {megabytes:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
