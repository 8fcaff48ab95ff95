"""Measure whether negative examples keep masks off look-alikes: `python -m studies.negatives`.

Each class of the emoji benchmark is paired with its look-alike, the class whose mean feature is nearest, in
scenes with both and in scenes with the look-alike alone. The model gets one example of the class, and then
also one negative example: the look-alike in another scene.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool

from segic_jax.commands.command_line import run_command
from segic_jax.data.emoji.scenes import Scene, scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import View
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find

LEAST_VISIBLE = 100  # pixels of an object that is measured


class SearchScene(NamedTuple):
    """Hold a scene in which a class is segmented; the look-alike is its last but one object."""

    class_name: str
    scene: Scene
    present: bool  # whether the class is in the scene, as its first object


class Scores(NamedTuple):
    """Hold means in per cent."""

    iou: float  # of the class, where both are present
    on_alike: float  # share of the look-alike that the mask covers, where both are present
    on_alike_alone: float  # the same where the class is absent
    false_masks: float  # scenes without the class whose mask covers at least a tenth of the look-alike


def make_scenes(source: EmojiSource, look_alikes: dict[str, str], count: int) -> list[SearchScene]:
    """Compose `count` scenes with both and `count` with the look-alike alone, for each class."""
    sprites = {sprite.name: sprite for sprite in source.bank.classes}
    scenes = []
    for name, alike in look_alikes.items():
        rng = np.random.default_rng(len(name))
        others = [other for other in sprites if other not in (name, alike)]
        for number in range(count):
            objects = [sprites[alike], sprites[others[rng.integers(len(others))]]]
            both = scene([sprites[name], *objects], f"both {name}", number)
            scenes.append(SearchScene(name, both, present=True))
            scenes.append(SearchScene(name, scene(objects, f"alone {name}", number), present=False))
    return scenes


def score(masks: Sequence[Bool[np.ndarray, "height width"]], scenes: Sequence[SearchScene]) -> Scores:
    """Score the predicted masks of the classes on their scenes."""
    iou, both, alone = [], [], []
    for mask, (_, drawn_scene, present) in zip(masks, scenes, strict=True):
        count = len(drawn_scene.names)
        truth, alike = drawn_scene.labels == (1 if present else count + 1), drawn_scene.labels == count - 1
        if alike.sum() < LEAST_VISIBLE or (present and truth.sum() < LEAST_VISIBLE):
            continue
        covered = (mask & alike).sum() / alike.sum()
        if present:
            iou.append((mask & truth).sum() / (mask | truth).sum())
        (both if present else alone).append(covered)
    means = (iou, both, alone, np.array(alone) >= 0.1)
    return Scores(*(100 * float(np.mean(values)) for values in means))


def compare(segmenter: Segmenter, split: Literal["validation", "novel"], count: int) -> dict[str, Scores]:
    """Score the masks without and with the negative example."""
    source = EmojiSource(split)

    def example(name: str, number: int, label: str, negative: bool = False) -> Example:
        view = source.load(View(str(number), name))
        return Example(view.image, view.mask, name=label, negative=negative)

    names = [sprite.name for sprite in source.bank.classes]
    features = [segmenter.fit(example(name, 1, name)).concepts[0].visual[0] for name in names]
    unit = np.stack([feature / np.linalg.norm(feature) for feature in features])
    nearest = (unit @ unit.T - 2 * np.eye(len(names))).argmax(1)
    look_alikes = {name: names[i] for name, i in zip(names, nearest, strict=True)}
    scenes = make_scenes(source, look_alikes, count)
    results = {}
    for label, with_negative in (("positive alone", False), ("with one negative", True)):
        contexts = {
            name: segmenter.fit(
                [example(name, 1, name), *([example(alike, 1, name, True)] if with_negative else [])]
            )
            for name, alike in look_alikes.items()
        }
        masks = [
            segmenter.predict(test.scene.image, contexts[test.class_name], keep_absent=True).mask(0)
            for test in scenes
        ]
        results[label] = score(masks, scenes)
    return results


@dataclass
class Args:
    """Print a table, in per cent."""

    weights: str = "emoji-tiny"
    """A name from `segic weights list`, or a model file."""
    split: Literal["validation", "novel"] = "novel"
    """Classes: validation to choose by, novel to report."""
    count: int = 5
    """Scenes of each kind for each class."""


def main(args: Args) -> None:
    """Print a line without and a line with the negative example."""
    segmenter = Segmenter(load_bundle(find(args.weights)))
    print("| examples | IoU of the class | on the look-alike | on it alone | scenes with a false mask |")
    print("| --- | --- | --- | --- | --- |")
    for label, scores in compare(segmenter, args.split, args.count).items():
        print(f"| {label} | " + " | ".join(f"{value:.1f}" for value in scores) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
