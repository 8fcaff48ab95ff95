"""Do negative examples keep the model off look-alikes? `python -m studies.negatives`.

Each class of the emoji benchmark meets the class whose mean feature is nearest to its own, in scenes with
both and in scenes with the look-alike alone. The model is shown one example of the class, and then also one
negative example: the look-alike in another scene.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool

from segic_jax.data.emoji.scenes import Scene, scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import View
from segic_jax.inference.example import Example
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.command_line import run_command
from segic_jax.weights.bundle import load_bundle
from segic_jax.weights.fetch import find

LEAST_VISIBLE = 100  # pixels of an object that is measured


class Measured(NamedTuple):
    """Means in per cent."""

    iou: float  # of the class, where both are there
    on_alike: float  # share of the look-alike that the mask covers, where both are there
    on_alike_alone: float  # the same where the class is absent
    found_alone: float  # scenes without the class whose mask covers at least a tenth of the look-alike


def scenes(source: EmojiSource, alike: dict[str, str], each: int) -> Iterator[tuple[str, Scene, bool]]:
    """Class, scene and whether the class is there; the look-alike is the last but one object."""
    concepts = {one.name: one for one in source.bank.classes}
    for name, near in alike.items():
        rng = np.random.default_rng(len(name))
        third = [other for other in concepts if other not in (name, near)]
        for number in range(each):
            objects = [concepts[near], concepts[third[rng.integers(len(third))]]]
            yield name, scene([concepts[name], *objects], f"both {name}", number), True
            yield name, scene(objects, f"alone {name}", number), False


def measure(masks: list[Bool[np.ndarray, "height width"]], shown: list[tuple[str, Scene, bool]]) -> Measured:
    """`masks` of the class on each of the scenes."""
    iou, both, alone = [], [], []
    for mask, (_, one, there) in zip(masks, shown, strict=True):
        count = len(one.names)
        truth, near = one.labels == (1 if there else count + 1), one.labels == count - 1
        if near.sum() < LEAST_VISIBLE or (there and truth.sum() < LEAST_VISIBLE):
            continue
        covered = (mask & near).sum() / near.sum()
        if there:
            iou.append((mask & truth).sum() / (mask | truth).sum())
        (both if there else alone).append(covered)
    means = (iou, both, alone, np.array(alone) >= 0.1)
    return Measured(*(100 * float(np.mean(values)) for values in means))


def compare(segmenter: Segmenter, split: Literal["validation", "novel"], each: int) -> dict[str, Measured]:
    """Without and with the negative example."""
    source = EmojiSource(split)

    def example(name: str, number: int, of: str, negative: bool = False) -> Example:
        view = source.load(View(str(number), name))
        return Example(view.image, view.mask, name=of, negative=negative)

    names = [one.name for one in source.bank.classes]
    features = [segmenter.fit(example(name, 1, name)).concepts[0].visual[0] for name in names]
    unit = np.stack([feature / np.linalg.norm(feature) for feature in features])
    nearest = (unit @ unit.T - 2 * np.eye(len(names))).argmax(1)
    alike = {name: names[i] for name, i in zip(names, nearest, strict=True)}
    shown = list(scenes(source, alike, each))
    results = {}
    for label, negatives in (("positive alone", False), ("with one negative", True)):
        taught = {
            name: segmenter.fit(
                [example(name, 1, name), *([example(near, 1, name, True)] if negatives else [])]
            )
            for name, near in alike.items()
        }
        masks = [
            segmenter.predict(one.image, taught[name], keep_absent=True).mask(0) for name, one, _ in shown
        ]
        results[label] = measure(masks, shown)
    return results


@dataclass
class Args:
    """Print a table, in per cent."""

    weights: str = ""
    """Model file, or a name of `segic weights list`."""
    split: Literal["validation", "novel"] = "novel"
    """Classes: validation to choose by, novel to report."""
    each: int = 5
    """Scenes of each kind and class."""


def main(args: Args) -> None:
    """One line without, one with the negative."""
    segmenter = Segmenter(load_bundle(find(args.weights)))
    print("| examples | IoU of the class | on the look-alike | on it alone | scenes with a false mask |")
    print("| --- | --- | --- | --- | --- |")
    for label, measured in compare(segmenter, args.split, args.each).items():
        print(f"| {label} | " + " | ".join(f"{value:.1f}" for value in measured) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
