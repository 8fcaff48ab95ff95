"""Compare ways to tell the objects of a class apart: `python -m studies.instances`.

Each composed scene shows two to five objects of one class that touch. Without --data-root they are emoji.
With --coco the same is measured on photographs with a COCO JSON, each class on every image that shows it.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import cv2
import numpy as np
import tyro
from jaxtyping import Float, UInt8

from segic_jax.commands.command_line import run_command
from segic_jax.data.episodes import ObjectMasks, View
from segic_jax.data.sources.coco_folder import CocoFolderSource, find_json
from segic_jax.errors import ConfigError
from segic_jax.evaluate.instances import average_precisions, instance_row
from segic_jax.inference.example import Example
from segic_jax.inference.instances import InstancesFrom
from segic_jax.inference.segmenter import Segmenter
from studies.cutouts import EmojiMaterial, FolderMaterial, Kind, Material, paste, resized

SIDE = 640  # pixels of a composed scene
SIZES = (0.2, 0.35)  # of an object's longer side, as a share of the scene's
HIDDEN = 0.15  # share of an object that the next one may cover
METHODS: tuple[InstancesFrom, ...] = get_args(InstancesFrom)


class Crowd(NamedTuple):
    """Hold an image and the objects of one class on it."""

    class_name: str
    reference: Example
    image: UInt8[np.ndarray, "height width 3"]
    objects: ObjectMasks


def touching_scenes(material: Material, count: int) -> Iterator[Crowd]:
    """Compose scenes of the classes in turn."""
    for number in range(count):
        rng = np.random.default_rng(number)
        kind = material.kinds[number % len(material.kinds)]
        image = np.ascontiguousarray(cv2.resize(material.background(rng, SIDE), (SIDE, SIDE)))
        labels = _paste_touching(rng, image, kind, int(rng.integers(2, 6)))
        masks = np.stack([labels == label for label in np.unique(labels)[1:]])
        reference = Example(kind.reference.image, kind.reference.mask, name=kind.name)
        yield Crowd(kind.name, reference, image, ObjectMasks(masks, [False] * len(masks)))


def _paste_touching(rng: np.random.Generator, image: np.ndarray, kind: Kind, count: int) -> np.ndarray:
    """Paste objects, each moved towards one of the others until they touch; return their labels."""
    labels = np.zeros(image.shape[:2], np.uint8)
    centres: list[np.ndarray] = []
    longest = rng.uniform(*SIZES) * SIDE
    while len(centres) < count:
        cutout = kind.cutouts[int(rng.integers(len(kind.cutouts)))]
        small = resized(rng, cutout, longest * rng.uniform(0.8, 1.2))
        size, opaque = np.array(small.shape[:2]), small[..., 3] > 127
        start = centres[int(rng.integers(len(centres)))] if centres else rng.uniform(0.35, 0.65, 2) * SIDE
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.sin(angle), np.cos(angle)])
        for distance in range(2 * SIDE if centres else 0, -1, -4):
            top, left = (start + distance * direction - size / 2).astype(int)
            if not (0 <= top <= SIDE - size[0] and 0 <= left <= SIDE - size[1]):
                continue
            covered = np.count_nonzero(labels[top : top + size[0], left : left + size[1]][opaque])
            if not centres or covered:
                if covered <= HIDDEN * opaque.sum():
                    paste(image, labels, small, (int(top), int(left)), len(centres) + 1)
                    centres.append(np.array([top, left]) + size / 2)
                break
    return labels


def photographed_crowds(path: Path) -> Iterator[Crowd]:
    """Take every image of each class with its objects; the reference is the next image of the class."""
    source = CocoFolderSource(path)
    for class_id, names in source.image_names.items():
        for i, name in enumerate(names if len(names) > 1 else ()):
            reference = source.load(View(names[(i + 1) % len(names)], class_id))
            view = View(name, class_id)
            example = Example(reference.image, reference.mask, name=source.class_name(class_id))
            yield Crowd(source.class_name(class_id), example, source.load(view).image, source.objects(view))


def compare(segmenter: Segmenter, crowds: Iterable[Crowd]) -> dict[str, dict[str, float]]:
    """Return the average precisions of each method, in per cent."""
    rows: dict[str, dict[str, list[dict]]] = {method: {} for method in METHODS}
    for crowd in crowds:
        result = segmenter.predict(crowd.image, segmenter.fit(crowd.reference), keep_absent=True)
        logits: Float[np.ndarray, "height width"] = result.logits(0)
        for method, by_class in rows.items():
            row = instance_row(logits, method, crowd.objects)
            by_class.setdefault(crowd.class_name, []).append(row)
    return {method: average_precisions(by_class.values()) for method, by_class in rows.items()}


@dataclass
class Args:
    """Print average precisions of each method."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    data_root: Path | None = None
    """A folder with a folder for each class, whose objects are composed instead of emoji."""
    backgrounds: Path | None = None
    """A folder of large photographs, needed with --data-root."""
    coco: Path | None = None
    """A COCO JSON or the folder that holds it."""
    scenes: int = 60
    """Composed scenes; 0 leaves them out."""


def main(args: Args) -> None:
    """Print a line for each set and method."""
    if (args.data_root is None) != (args.backgrounds is None):
        raise ConfigError("--data-root and --backgrounds belong together: give both or neither.")
    segmenter = Segmenter.load(args.weights)
    sets: dict[str, Iterable[Crowd]] = {}
    if args.scenes:
        material = EmojiMaterial(args.scenes)
        if args.data_root and args.backgrounds:
            material = FolderMaterial(args.data_root, args.backgrounds)
        sets["touching objects"] = touching_scenes(material, args.scenes)
    if args.coco:
        path = find_json(args.coco)
        if path is None:
            raise ConfigError(f"{args.coco} has no COCO JSON: give the file, or the folder that holds it.")
        sets["photographs"] = photographed_crowds(path)
    for name, crowds in sets.items():
        for method, scores in compare(segmenter, crowds).items():
            values = ", ".join(f"{key.upper()} {value:.1f}" for key, value in scores.items())
            print(f"{name}, {method}: {values}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
