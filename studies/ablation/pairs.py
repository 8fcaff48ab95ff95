"""Draw training pairs from the fixed scenes: a class in two of them, or the objects of two views of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segic_jax.config import DataConfig
from segic_jax.data.pipeline import CANDIDATES
from studies.ablation.scenes import MAX_OBJECTS, Scenes

MIN_VISIBLE = 0.01  # of a scene's pixels; an object with fewer is not a concept
FIRST_CLASS = 2  # row of the text table; the empty prompt and that of instances come before
INSTANCE_SHARE = 0.5  # of the pairs, where there are instances


@dataclass(frozen=True)
class Pairs:
    """Draw batches of pairs; all randomness comes from the generator that is passed."""

    scenes: Scenes
    views: Scenes | None  # None: semantic pairs alone
    classes: int  # of the training scenes
    slots: int
    data: DataConfig  # `box` and `cross` are read
    text_keep: float  # probability of a class's name
    negative: float  # probability of negative prompts, for a semantic pair

    @cached_property
    def by_class(self) -> list[np.ndarray]:
        """Return rows (scene, label, class, family) of usable objects, for each class in several scenes."""
        visible = _visible(self.scenes.labels)
        scene, label = np.nonzero((visible >= MIN_VISIBLE) & (self.scenes.objects[..., 0] >= 0))
        class_number, family = self.scenes.objects[scene, label].T
        table = np.stack([scene, label + 1, class_number, family], axis=1)
        by_class = (table[class_number == number] for number in np.unique(class_number))
        return [rows for rows in by_class if len(np.unique(rows[:, 0])) > 1]

    @cached_property
    def in_both(self) -> np.ndarray:
        """Return whether an object is visible in both views of each scene [scenes, MAX_OBJECTS]."""
        if self.views is None:
            return np.zeros((1, MAX_OBJECTS), bool)
        visible = _visible(self.views.labels) >= MIN_VISIBLE
        return visible[0::2] & visible[1::2]

    @cached_property
    def usable(self) -> np.ndarray:
        """Return the scenes whose views share an object; none without views."""
        return np.nonzero(self.in_both.any(1))[0]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        """Draw `size` pairs.

        Returns:
            target, reference: numbers of the scenes [size], and is_instance: whether they are views;
            target_concept_labels, reference_concept_labels: labels of the concepts in them [size, slots], 0
            for none; and the fields of `data.pipeline.training_batches` but for images and masks.
        """
        return _stacked([self._pair(rng) for _ in range(size)])

    def _pair(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        instance = len(self.usable) > 0 and rng.random() < INSTANCE_SHARE
        concept_labels = np.zeros((2, self.slots), np.int32)
        prompts, class_row = np.zeros(2, np.int32), -1
        negatives = np.full(CANDIDATES, -1, np.int32)
        if instance:
            number = int(self.usable[rng.integers(len(self.usable))])
            scenes = [2 * number, 2 * number + 1]
            labels = rng.permutation(np.nonzero(self.in_both[number])[0] + 1)[: self.slots]
            concept_labels[:, : len(labels)] = labels
            prompts[:] = 1
        else:
            rows = self.by_class[rng.integers(len(self.by_class))]
            target, reference = two_rows(rng, rows)
            scenes = [target[0], reference[0]]
            concept_labels[:, 0] = target[1], reference[1]
            class_row = FIRST_CLASS + target[2]
            prompts[rng.random(2) < self.text_keep] = class_row
            if rng.random() < self.negative:
                present = self.scenes.objects[scenes, :, 0]
                absent = np.setdiff1d(np.arange(self.classes), present)
                chosen = rng.permutation(absent)[:CANDIDATES]
                negatives[: len(chosen)] = FIRST_CLASS + chosen
        return {
            "target": np.array(scenes[0], np.int32),
            "reference": np.array(scenes[1], np.int32),
            "is_instance": np.array(instance, bool),
            "target_concept_labels": concept_labels[0],
            "reference_concept_labels": concept_labels[1],
            "valid": concept_labels[0] > 0,
            "target_prompt": prompts[0],
            "reference_prompt": prompts[1],
            "class_row": np.array(class_row, np.int32),
            "negative_rows": negatives,
            "use_box": rng.random(2) < self.data.box,
            "use_cross": rng.random(2) < self.data.cross,
        }


def two_rows(rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose two rows (scene, label, class, family), of different families if possible."""
    first = rows[rng.integers(len(rows))]
    elsewhere = rows[rows[:, 0] != first[0]]
    others = elsewhere[elsewhere[:, 3] != first[3]]
    others = others if len(others) else elsewhere
    return first, others[rng.integers(len(others))]


def _visible(labels: np.ndarray) -> np.ndarray:
    """Return the share of each object in each scene's pixels [scenes, MAX_OBJECTS]."""
    pixels = labels[0].size
    return np.stack([np.bincount(scene.ravel(), minlength=MAX_OBJECTS + 1)[1:] for scene in labels]) / pixels


def _stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
