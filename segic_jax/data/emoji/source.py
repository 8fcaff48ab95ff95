"""The embedded benchmark as training pairs and as a fixed list of episodes."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.emoji.compose import BENCHMARK_STYLE, TRAINING_STYLE, compose
from segic_jax.data.emoji.sprites import Split, SpriteBank, SpriteClass
from segic_jax.data.episodes import AnnotatedImage, ClassId, Episode, LabelledImage, Pair, View
from segic_jax.data.manifest import Manifest
from segic_jax.errors import DataError

SCENE_SIDE = 192  # pixels of a benchmark scene
SCENES = 10  # of each class in the benchmark
SAME_CLASS = 0.3  # probability that an instance looks like an earlier one of its scene
SHARED = (0.25, 0.25, 0.5)  # probabilities of one, two and three classes in both scenes of a pair
OBJECTS = 4  # of such a scene, at most
LEAST_VISIBLE = 0.006  # of a scene's pixels, else an object is no concept of its pair


@dataclass(frozen=True)
class EmojiPairs:
    """Endless training pairs: one class in two scenes, by two artists, among distractors."""

    bank: SpriteBank
    canvas: int
    distractors: int = 3  # at most, in each scene

    has_instances = False

    def __len__(self) -> int:
        return len(self.bank.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels of the drawings."""
        return tuple(dict.fromkeys(concept.label for concept in self.bank.classes))

    def pair(self, rng: np.random.Generator) -> Pair:
        """Target and reference scenes of one class."""
        concept = self.bank.classes[rng.integers(len(self.bank.classes))]
        artists = two_artists(rng, concept)
        shown = {concept.name}
        target, reference = (self._scene(rng, concept, artist, shown) for artist in artists)
        labels = {one.label for one in self.bank.classes if one.name in shown}
        absent = tuple(label for label in self.class_names if label not in labels)
        return Pair(target=target, reference=reference, name=concept.label, absent=absent)

    def _scene(
        self, rng: np.random.Generator, concept: SpriteClass, artist: str, shown: set[str]
    ) -> AnnotatedImage:
        others = distractors(rng, self.bank, [concept], int(rng.integers(1, self.distractors + 1)))
        shown.update(name for name, _ in others)
        image, labels = compose(rng, [(concept.name, artist), *others], self.canvas, TRAINING_STYLE)
        return AnnotatedImage(image=image, masks=(labels == 1)[None])


@dataclass(frozen=True)
class EmojiScenePairs:
    """Endless pairs of scenes that share one to three classes, each a concept drawn by two artists.

    What is to be found in an image then depends on the reference alone. The concepts have no names.
    """

    bank: SpriteBank
    canvas: int

    has_instances = False
    class_names = ()

    def __len__(self) -> int:
        return len(self.bank.classes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Two scenes; a class that is hidden in one of them is no concept."""
        shared = 1 + int(rng.choice(len(SHARED), p=SHARED))
        drawn = rng.choice(len(self.bank.classes), shared, replace=False)
        concepts = [self.bank.classes[number] for number in drawn]
        artists = [two_artists(rng, concept) for concept in concepts]
        scenes = []
        for side in range(2):
            objects = [(concept.name, of[side]) for concept, of in zip(concepts, artists, strict=True)]
            count = int(rng.integers(1, OBJECTS - shared + 1))
            objects += distractors(rng, self.bank, concepts, count)
            image, labels = compose(rng, objects, self.canvas, TRAINING_STYLE)
            scenes.append((image, labels == np.arange(1, shared + 1)[:, None, None]))
        seen = np.all([masks.mean((1, 2)) >= LEAST_VISIBLE for _, masks in scenes], axis=0)
        seen[0] = True  # `compose` sees to it
        target, reference = (AnnotatedImage(image, masks[seen]) for image, masks in scenes)
        return Pair(target=target, reference=reference, name="")


@dataclass(frozen=True)
class EmojiInstancePairs:
    """Endless scenes of several objects, each of them an instance; some are of one class."""

    bank: SpriteBank
    canvas: int
    objects: tuple[int, int] = (2, 5)  # at least and at most

    has_instances = True
    class_names = ()

    def __len__(self) -> int:
        return len(self.bank.classes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """One scene as target and as reference."""
        count = int(rng.integers(self.objects[0], self.objects[1] + 1))
        chosen: list[tuple[str, str]] = []
        for _ in range(count):
            if chosen and rng.random() < SAME_CLASS:
                chosen.append(chosen[int(rng.integers(len(chosen)))])
                continue
            concept = self.bank.classes[rng.integers(len(self.bank.classes))]
            chosen.append((concept.name, concept.artists[rng.integers(len(concept.artists))]))
        image, labels = compose(rng, chosen, self.canvas, TRAINING_STYLE)
        scene = AnnotatedImage(image, labels == np.arange(1, count + 1)[:, None, None])
        return Pair(target=scene, reference=scene, name="", is_instance=True)


class EmojiSource:
    """A fixed benchmark on the classes of one split: SCENES scenes a class, each a target once.

    The reference of a target is the next scene of its class. A scene is drawn when it is asked for,
    from a generator keyed by its name.
    """

    name = "emoji"

    def __init__(self, split: Split = "novel"):
        self.bank = SpriteBank.load(split)
        self._concepts = {concept.name: concept for concept in self.bank.classes}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Raises DataError when there are not enough scenes for `shots`."""
        if shots >= SCENES:
            raise DataError(f"A class has {SCENES} scenes: at most {SCENES - 1} shots, not {shots}.")
        episodes = tuple(
            Episode(
                class_id=name,
                target=str(number),
                references=tuple(str((number + shot) % SCENES + 1) for shot in range(shots)),
            )
            for name in self._concepts
            for number in range(1, SCENES + 1)
        )
        return Manifest(self.name, protocol, fold, shots, tuple(self._concepts), episodes)

    def class_name(self, class_id: ClassId) -> str:
        """The label of the drawing."""
        return self._concepts[str(class_id)].label

    def views(self) -> Iterator[View]:
        """All scenes, class by class."""
        for name in self._concepts:
            for number in range(1, SCENES + 1):
                yield View(str(number), name)

    def load(self, view: View) -> LabelledImage:
        """RGB uint8 [192, 192, 3] and mask bool [192, 192]."""
        name, number = str(view.class_id), int(view.image_name)
        concept = self._concepts[name]
        rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        artist = concept.artists[(number - 1) % len(concept.artists)]
        others = distractors(rng, self.bank, [concept], int(rng.integers(1, 4)))
        image, labels = compose(rng, [(name, artist), *others], SCENE_SIDE, BENCHMARK_STYLE)
        return LabelledImage(image, labels == 1)


def _open(root: Path | None) -> EmojiSource:
    return EmojiSource()


def _check(root: Path) -> list[CheckLine]:
    return [CheckLine("scenes", sum(1 for _ in EmojiSource().views()), 640)]


BENCHMARK = BenchmarkSpec(
    name="emoji",
    title="composed scenes of 64 emoji classes unseen in the training of the bundled model",
    kind="episodes",
    protocols=("original",),
    layout="part of the package",
    download="the package",
    domain="emoji novel",  # no training has these classes: `emoji` stands for the base ones
    open=_open,
    check=_check,
    needs_root=False,
)


def two_artists(rng: np.random.Generator, concept: SpriteClass) -> tuple[str, str]:
    """Two artists, of different families where the class has them."""
    first = concept.artists[rng.integers(len(concept.artists))]
    others = concept.other_family(first)
    return first, others[rng.integers(len(others))]


def distractors(
    rng: np.random.Generator, bank: SpriteBank, concepts: Sequence[SpriteClass], count: int
) -> list[tuple[str, str]]:
    """`count` objects of other classes, as (class, artist)."""
    picked: list[tuple[str, str]] = []
    names = {concept.name for concept in concepts}
    while len(picked) < count:
        other = bank.classes[rng.integers(len(bank.classes))]
        if other.name not in names:
            names.add(other.name)
            picked.append((other.name, other.artists[rng.integers(len(other.artists))]))
    return picked
