"""Measure tiles on large images with small objects: `python -m studies.tiles`.

Each scene is a background of 4096 pixels with six objects of a class, 30 to 80 pixels long, and six of other
classes. Without --data-root the objects are emoji.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from benchmarks.memory import resident_rise
from segic_jax.commands.arguments import TilesOption
from segic_jax.commands.command_line import run_command
from segic_jax.errors import ConfigError
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.inference.context import Context
from segic_jax.inference.example import Example
from segic_jax.inference.result import Result
from segic_jax.inference.segmenter import Segmenter
from segic_jax.inference.tiles import plan_tiles
from studies.cutouts import EmojiMaterial, FolderMaterial, Kind, Material, paste, resized

OBJECTS = 6  # of the class, and as many of others
GAP = 20  # pixels between objects, at least


class LargeScene(NamedTuple):
    """Hold a large image and where the objects of the class are."""

    kind: Kind
    image: UInt8[np.ndarray, "height width 3"]
    truth: Bool[np.ndarray, "height width"]


def large_scenes(material: Material, side: int, sizes: tuple[int, int], count: int) -> Iterator[LargeScene]:
    """Compose scenes of the classes in turn."""
    for number in range(count):
        rng = np.random.default_rng(number)
        kind = material.kinds[number % len(material.kinds)]
        others = [other for other in material.kinds if other is not kind]
        image = material.background(rng, side)
        labels = np.zeros(image.shape[:2], np.uint8)
        for label in (1, 2):
            for _ in range(OBJECTS):
                chosen = kind if label == 1 else others[int(rng.integers(len(others)))]
                cutout = chosen.cutouts[int(rng.integers(len(chosen.cutouts)))]
                small = resized(rng, cutout, rng.uniform(*sizes))
                paste(image, labels, small, _free_place(rng, labels, small.shape), label)
        yield LargeScene(kind, image, labels == 1)


def _free_place(rng: np.random.Generator, labels: np.ndarray, size: tuple[int, ...]) -> tuple[int, int]:
    while True:
        top, left = (int(rng.integers(GAP, labels.shape[i] - size[i] - GAP)) for i in (0, 1))
        if not labels[top - GAP : top + size[0] + GAP, left - GAP : left + size[1] + GAP].any():
            return top, left


class Measured(NamedTuple):
    """Hold the IoU, the seconds and the memory of one call."""

    iou: float
    seconds: float
    megabytes: float  # by which it raised the peak of the process


def timed_predict(
    segmenter: Segmenter, image: UInt8[np.ndarray, "height width 3"], context: Context, tiles: TilesOption
) -> tuple[Result, float, float]:
    """Return the result, the seconds, and the MB by which the call raised the memory; classes are present."""
    results, start = [], time.perf_counter()
    rise = resident_rise(
        lambda: results.append(segmenter.predict(image, context, keep_absent=True, tiles=tiles))
    )
    return results[0], time.perf_counter() - start, (rise or 0) / 1e6


def measure(segmenter: Segmenter, scene: LargeScene, context: Context, tiles: TilesOption) -> Measured:
    """Segment a scene."""
    result, seconds, megabytes = timed_predict(segmenter, scene.image, context, tiles)
    return Measured(mask_iou(result.mask(0), scene.truth), seconds, megabytes)


def describe(measured: Measured) -> str:
    """Return the three values in a few words."""
    return f"IoU {100 * measured.iou:.1f}, {measured.seconds:.2f} s, {measured.megabytes:.0f} MB"


@dataclass
class Args:
    """Print IoU, time and memory of the plain call and of tiles."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    data_root: Path | None = None
    """A folder with a folder for each class, as for `segic eval --benchmark folder`, instead of emoji."""
    backgrounds: Path | None = None
    """A folder of large photographs, needed with --data-root."""
    tiles: TilesOption = "auto"
    """As for `segic predict`."""
    scenes: int = 8
    """How many scenes, of the classes in turn."""
    side: int = 4096
    """Pixels of the longer side of a scene."""
    sizes: tuple[int, int] = (30, 80)
    """Pixels of the longer side of an object: smallest and largest."""


def main(args: Args) -> None:
    """Print a line for each scene, and the means."""
    if (args.data_root is None) != (args.backgrounds is None):
        raise ConfigError("--data-root and --backgrounds belong together: give both or neither.")
    segmenter = Segmenter.load(args.weights)
    material = EmojiMaterial(args.scenes)
    if args.data_root and args.backgrounds:
        material = FolderMaterial(args.data_root, args.backgrounds)
    lines: list[tuple[Measured, Measured, int]] = []
    for scene in large_scenes(material, args.side, args.sizes, args.scenes):
        reference = scene.kind.reference
        context = segmenter.fit(Example(reference.image, reference.mask, name=scene.kind.name))
        if not lines:  # compile, and read what is read once
            segmenter.predict(reference.image, context, tiles=1)
        plain = measure(segmenter, scene, context, None)
        tiled = measure(segmenter, scene, context, args.tiles)
        windows = len(plan_tiles(scene.image.shape[:2], segmenter.config, args.tiles or 1).windows)
        lines.append((plain, tiled, windows))
        print(
            f"{scene.kind.name}: plain {describe(plain)}; {windows} windows {describe(tiled)}, "
            f"{tiled.seconds / windows / plain.seconds:.2f} of the plain call for each",
            flush=True,
        )
    for i, name in enumerate(("plain", "tiles")):
        print(f"{name}: mean {describe(Measured(*np.mean([line[i] for line in lines], axis=0)))}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
