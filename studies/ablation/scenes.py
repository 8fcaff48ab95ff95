"""Draw the scenes of an ablation once, and store them: they are the same for every head.

A part is a list of scenes of 192 pixels with label maps. TRAINING and VIEWS are of the base classes; the
others are lists of episodes: class after class, SCENES scenes each, whose first object is of the class.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, DataConfig
from segic_jax.data.emoji.compose import BENCHMARK_STYLE, TRAINING_STYLE, compose
from segic_jax.data.emoji.source import SCENE_SIDE, SCENES, EmojiInstancePairs, EmojiSource
from segic_jax.data.emoji.sprites import FAMILY, Split, SpriteBank, SpriteClass
from segic_jax.data.episodes import View
from segic_jax.data.pipeline import Examples
from segic_jax.runtime import progress
from segic_jax.runtime.atomic_write import atomic_path
from segic_jax.runtime.prefetch import prefetch_results

TRAINING = "training"  # scenes of two to four base classes, each of which can be the concept
VIEWS = "views"  # two views of a scene, one after the other, with the same objects under the same labels
VALIDATION = "validation"  # classes that no training uses
SEEN = "seen"  # base classes, in new scenes
DRAWINGS = "drawings"  # one drawing of a validation class, beside another artist's in each scene
NOVEL = "novel"  # the benchmark's classes, evaluated at the very end
EPISODES = (VALIDATION, SEEN, DRAWINGS, NOVEL)
MAX_OBJECTS = 4  # objects of a training scene


@dataclass(frozen=True)
class Size:
    """Set the numbers of scenes."""

    training: int = 5_000
    views: int = 2_000  # two a scene
    classes: int = 40  # of a list of episodes, evenly spread over the split; all the novel ones


class Scenes(NamedTuple):
    """Hold a part of the scenes, mapped from disk."""

    images: UInt8[np.ndarray, "scenes side side 3"]
    labels: UInt8[np.ndarray, "scenes side side"]  # 0 background, i + 1 object i
    objects: Int[np.ndarray, "scenes objects 2"]  # number of the class and of the artists' family; -1: none


class Drawn(NamedTuple):
    """Hold one scene of a part."""

    image: UInt8[np.ndarray, "side side 3"]
    labels: UInt8[np.ndarray, "side side"]
    objects: Int[np.ndarray, "objects 2"]


def scenes_of(part: str, size: Size, folder: Path, seed: int) -> Scenes:
    """Return the scenes of a part, drawn first if `folder` lacks them; they depend on the arguments only."""
    files = [folder / f"{part}_{name}.npy" for name in Scenes._fields]
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        _draw(part, size, files, seed)
    return Scenes(*(np.load(file, mmap_mode="r") for file in files))


def _split(part: str) -> Split:
    splits: dict[str, Split] = {SEEN: "base", NOVEL: "novel"}
    return splits.get(part, "validation")


def episode_classes(part: str, size: Size) -> list[SpriteClass]:
    """Return the classes of a list of episodes, in its order."""
    classes = SpriteBank.load(_split(part)).classes
    count = len(classes) if part == NOVEL else min(size.classes, len(classes))
    return [classes[i * len(classes) // count] for i in range(count)]


def _draw(part: str, size: Size, files: list[Path], seed: int) -> None:
    count, draw = _drawing(part, size, seed)
    shapes = ((SCENE_SIDE, SCENE_SIDE, 3), (SCENE_SIDE, SCENE_SIDE), (MAX_OBJECTS, 2))
    with ExitStack() as stack:
        arrays = [
            np.lib.format.open_memmap(stack.enter_context(atomic_path(file)), "w+", dtype, (count, *shape))
            for file, dtype, shape in zip(files, (np.uint8, np.uint8, np.int32), shapes, strict=True)
        ]
        arrays[2][:] = -1

        def write(number: int) -> None:
            cv2.setNumThreads(0)
            drawn = draw(number)
            arrays[0][number], arrays[1][number] = drawn.image, drawn.labels
            arrays[2][number, : len(drawn.objects)] = drawn.objects

        done = prefetch_results(write, range(count), threads=2, limit=8)
        for _ in progress.bar(done, total=count, desc=f"scenes: {part}", leave=False):
            pass
        for array in arrays:
            array.flush()


def _drawing(part: str, size: Size, seed: int) -> tuple[int, Callable[[int], Drawn]]:
    """Return the number of scenes, and the function that draws one of them."""
    if part == TRAINING:
        return size.training, _Training(SpriteBank.load("base"), seed)
    if part == VIEWS:
        return size.views // 2 * 2, _Views(seed)
    classes = episode_classes(part, size)
    if part == DRAWINGS:
        return len(classes) * SCENES, lambda number: _two_drawings(classes, number)
    source = EmojiSource(_split(part))

    def draw(number: int) -> Drawn:
        concept, scene = divmod(number, SCENES)
        item = source.load(View(str(scene + 1), classes[concept].name))
        return Drawn(item.image, item.mask.astype(np.uint8), np.array([[concept, 0]]))

    return len(classes) * SCENES, draw


@dataclass(frozen=True)
class _Training:
    """Draw a scene of different classes, any of which may be the concept."""

    bank: SpriteBank
    seed: int

    @cached_property
    def families(self) -> list[str]:
        """Return the families of artists: those who redraw each other's images count as one."""
        artists = {artist for sprite in self.bank.classes for artist in sprite.artists}
        return sorted({FAMILY.get(artist, artist) for artist in artists})

    def __call__(self, number: int) -> Drawn:
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(len(self.bank.classes), int(rng.integers(2, MAX_OBJECTS + 1)), replace=False)
        artists = [str(rng.choice(self.bank.classes[c].artists)) for c in chosen]
        objects = [(self.bank.classes[c].name, artist) for c, artist in zip(chosen, artists, strict=True)]
        image, labels = compose(rng, objects, SCENE_SIDE, TRAINING_STYLE)
        families = [self.families.index(FAMILY.get(artist, artist)) for artist in artists]
        return Drawn(image, labels, np.stack([chosen, families], axis=1))


class _Views:
    """Draw scenes 2 j and 2 j + 1 as two views of one image, with its objects as concepts."""

    def __init__(self, seed: int):
        config = DataConfig(max_concepts=MAX_OBJECTS)
        source = EmojiInstancePairs(SpriteBank.load("base"), SCENE_SIDE)
        self._example = lru_cache(8)(
            Examples(source, config, SCENE_SIDE, {EMPTY_PROMPT: 0, INSTANCE_PROMPT: 1}, seed)
        )

    def __call__(self, number: int) -> Drawn:
        example = self._example(number // 2)
        side = "reference" if number % 2 else "target"
        masks = example[side + "_masks"]
        labels = (masks * np.arange(1, len(masks) + 1, dtype=np.uint8)[:, None, None]).sum(0, dtype=np.uint8)
        return Drawn(example[side + "_image"], labels, np.zeros((len(masks), 2), np.int32))


def _two_drawings(classes: list[SpriteClass], number: int) -> Drawn:
    """Draw a class's first drawing, one by another family, and one or two objects of other classes."""
    place, scene = divmod(number, SCENES)
    concept = classes[place]
    rng = np.random.default_rng([place, scene])
    others = [sprite for sprite in classes if sprite is not concept]
    picked = rng.choice(len(others), min(int(rng.integers(1, 3)), len(others)), replace=False)
    objects = [
        (concept.name, concept.artists[0]),
        (concept.name, concept.other_family(concept.artists[0])[0]),
    ]
    objects += [(others[i].name, str(rng.choice(others[i].artists))) for i in picked]
    image, labels = compose(rng, objects, SCENE_SIDE, BENCHMARK_STYLE)
    return Drawn(image, (labels == 1).astype(np.uint8), np.array([[place, 0]]))


def references(count: int, shots: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield target and references of every episode: the next scenes of the class, as `EmojiSource`."""
    for target in range(count):
        first, scene = target // SCENES * SCENES, target % SCENES
        yield target, tuple(first + (scene + shot) % SCENES for shot in range(1, shots + 1))
