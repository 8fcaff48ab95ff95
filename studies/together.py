"""Compare decoding the classes of one call alone or together: `python -m studies.together`.

Alone, each class is decoded as if it were the only one. Together, each also reads the features of the others,
as the official code does for the classes that an image holds. The classes of a call are those of a scene of
the emoji benchmark, in which all are present, and, with --data-root, a class of a folder with three others,
which are absent.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from segic_jax.commands.command_line import run_command
from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import View
from segic_jax.data.sources.folder import FolderSource
from segic_jax.evaluate.metrics import mask_iou
from segic_jax.inference.context import Context
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter

CLASSES = 4  # of a call
LEAST_VISIBLE = 100  # pixels of an object that is measured


class Call(NamedTuple):
    """Hold a call and the truth of those of its classes that the target shows."""

    image: UInt8[np.ndarray, "height width 3"]
    context: Context
    truth: dict[str, Bool[np.ndarray, "height width"]]


def emoji_calls(segmenter: Segmenter, count: int) -> Iterator[Call]:
    """Draw scenes with CLASSES classes of the novel split; the reference of each class is another scene."""
    source = EmojiSource("novel")
    sprites = source.bank.classes
    for number in range(count):
        rng = np.random.default_rng(number)
        chosen = [sprites[i] for i in rng.choice(len(sprites), CLASSES, replace=False)]
        drawn = scene(chosen, "together", number)
        context = _fit(segmenter, source, {sprite.name: "1" for sprite in chosen})
        masks = {sprite.name: drawn.labels == i for i, sprite in enumerate(chosen, 1)}
        truth = {name: mask for name, mask in masks.items() if mask.sum() >= LEAST_VISIBLE}
        yield Call(drawn.image, context, truth)


def folder_calls(segmenter: Segmenter, root: Path) -> Iterator[Call]:
    """Take every image of a folder as the target of its class and of three others."""
    source = FolderSource(root)
    manifest = source.manifest("original", 0, 1)
    first = {episode.class_id: episode.target for episode in reversed(manifest.episodes)}
    for number, episode in enumerate(manifest.episodes):
        others = [name for name in first if name != episode.class_id]
        rng = np.random.default_rng(number)
        chosen = rng.choice(others, min(CLASSES - 1, len(others)), replace=False)
        references = {episode.class_id: episode.references[0]} | {name: first[name] for name in chosen}
        target = source.load(View(episode.target, episode.class_id))
        yield Call(target.image, _fit(segmenter, source, references), {str(episode.class_id): target.mask})


def compare(segmenter: Segmenter, calls: Iterator[Call]) -> dict[str, float]:
    """Return mIoU over the classes, in per cent, for each way to decode."""
    ious: dict[str, dict[str, list[float]]] = {"alone": {}, "together": {}}
    for call in calls:
        for way, by_class in ious.items():
            result = segmenter.predict(call.image, call.context, keep_absent=True, together=way == "together")
            for name, truth in call.truth.items():
                mask = result.mask(result.names.index(name))
                by_class.setdefault(name, []).append(mask_iou(mask, truth))
    return {
        way: 100 * float(np.mean([np.mean(values) for values in by_class.values()]))
        for way, by_class in ious.items()
    }


def _fit(segmenter: Segmenter, source: EmojiSource | FolderSource, references: dict) -> Context:
    views = {name: source.load(View(image, name)) for name, image in references.items()}
    return segmenter.fit([Example(view.image, view.mask, name=str(name)) for name, view in views.items()])


@dataclass
class Args:
    """Print mIoU of both ways to decode, in per cent."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    scenes: int = 100
    """Scenes of the emoji benchmark; 0 leaves them out."""
    data_root: Path | None = None
    """A folder with a folder for each class, as for `segic eval --benchmark folder`."""


def main(args: Args) -> None:
    """Print a line for each set of calls."""
    segmenter = Segmenter.load(args.weights)
    sets = {}
    if args.scenes:
        sets["emoji scenes, all classes present"] = emoji_calls(segmenter, args.scenes)
    if args.data_root:
        sets[f"{args.data_root.name}, three of four classes absent"] = folder_calls(segmenter, args.data_root)
    for name, calls in sets.items():
        print(
            f"{name}: " + ", ".join(f"{way} {value:.1f}" for way, value in compare(segmenter, calls).items())
        )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
