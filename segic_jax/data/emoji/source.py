"""Give the embedded emoji benchmark as training pairs and as a fixed list of episodes."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segic_jax.data.benchmark_spec import BenchmarkSpec, CheckLine
from segic_jax.data.emoji.compose import BENCHMARK_STYLE, TRAINING_STYLE, compose
from segic_jax.data.emoji.sprites import Split, SpriteBank, SpriteClass
from segic_jax.data.episodes import ClassId, Episode, LabelledImage, Manifest, View
from segic_jax.data.pairs import AnnotatedImage, Pair
from segic_jax.errors import DataError

SCENE_SIDE = 192  # pixels of a benchmark scene
SCENES = 10  # of each class in the benchmark
SAME_CLASS = 0.3  # probability that an instance repeats an earlier one of its scene
SHARED = (0.25, 0.25, 0.5)  # probabilities that both scenes of a pair share one, two and three classes
OBJECTS = 4  # of such a scene, at most
MIN_VISIBLE_SHARE = 0.006  # of a scene's pixels; an object with fewer is not a concept of its pair


@dataclass(frozen=True)
class EmojiPairs:
    """Draw pairs of scenes with one class, by two artists, among distractors, without end."""

    bank: SpriteBank
    canvas: int
    distractors: int = 3  # at most, in each scene

    has_instances = False

    def __len__(self) -> int:
        return len(self.bank.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the labels of the drawings, each once."""
        return tuple(dict.fromkeys(concept.label for concept in self.bank.classes))

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw the target and reference scenes of one class."""
        concept = self.bank.classes[rng.integers(len(self.bank.classes))]
        artists = two_artists(rng, concept)
        present = {concept.name}
        target, reference = (self._scene(rng, concept, artist, present) for artist in artists)
        labels = {item.label for item in self.bank.classes if item.name in present}
        absent = tuple(label for label in self.class_names if label not in labels)
        return Pair(target=target, reference=reference, name=concept.label, absent=absent)

    def _scene(
        self, rng: np.random.Generator, concept: SpriteClass, artist: str, present: set[str]
    ) -> AnnotatedImage:
        others = distractors(rng, self.bank, [concept], int(rng.integers(1, self.distractors + 1)))
        present.update(name for name, _ in others)
        image, labels = compose(rng, [(concept.name, artist), *others], self.canvas, TRAINING_STYLE)
        return AnnotatedImage(image=image, masks=(labels == 1)[None])


@dataclass(frozen=True)
class EmojiScenePairs:
    """Draw pairs of scenes that share one to three classes, each a concept by two artists, without end.

    The concepts of a target then depend on the reference alone, and have no names.
    """

    bank: SpriteBank
    canvas: int

    has_instances = False
    class_names = ()

    def __len__(self) -> int:
        return len(self.bank.classes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw two scenes; a class that is hidden in one of them is not a concept."""
        shared = 1 + int(rng.choice(len(SHARED), p=SHARED))
        drawn = rng.choice(len(self.bank.classes), shared, replace=False)
        concepts = [self.bank.classes[number] for number in drawn]
        artists = [two_artists(rng, concept) for concept in concepts]
        scenes = []
        for side in range(2):
            objects = [(concept.name, pair[side]) for concept, pair in zip(concepts, artists, strict=True)]
            count = int(rng.integers(1, OBJECTS - shared + 1))
            objects += distractors(rng, self.bank, concepts, count)
            image, labels = compose(rng, objects, self.canvas, TRAINING_STYLE)
            scenes.append((image, labels == np.arange(1, shared + 1)[:, None, None]))
        visible = np.all([masks.mean((1, 2)) >= MIN_VISIBLE_SHARE for _, masks in scenes], axis=0)
        visible[0] = True  # ensured by `compose`
        target, reference = (AnnotatedImage(image, masks[visible]) for image, masks in scenes)
        return Pair(target=target, reference=reference, name="")


@dataclass(frozen=True)
class EmojiInstancePairs:
    """Draw scenes of several objects, each of them an instance, some of one class, without end."""

    bank: SpriteBank
    canvas: int
    objects: tuple[int, int] = (2, 5)  # smallest and largest number

    has_instances = True
    class_names = ()

    def __len__(self) -> int:
        return len(self.bank.classes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw one scene as target and as reference."""
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
    """Give a fixed benchmark of the classes of one split: SCENES scenes of each class, each a target once.

    The reference of a target is the next scene of its class. A scene is composed when it is loaded, from a
    generator keyed by its name.
    """

    name = "emoji"

    def __init__(self, split: Split = "novel"):
        self.bank = SpriteBank.load(split)
        self._concepts = {concept.name: concept for concept in self.bank.classes}

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes. Raises DataError if there are too few scenes for `shots`."""
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
        """Return the label of the drawing."""
        return self._concepts[str(class_id)].label

    def views(self) -> Iterator[View]:
        """Yield all scenes, class by class."""
        for name in self._concepts:
            for number in range(1, SCENES + 1):
                yield View(str(number), name)

    def load(self, view: View) -> LabelledImage:
        """Compose a scene of 192 x 192 pixels and the mask of its class."""
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
    title="composed scenes of 64 emoji classes unseen in the training of emoji-tiny",
    kind="episodes",
    protocols=("original",),
    layout="part of the package",
    download="the package",
    domain="emoji novel",  # no training uses these classes: `emoji` stands for the base ones
    open=_open,
    check=_check,
    needs_root=False,
)


def two_artists(rng: np.random.Generator, concept: SpriteClass) -> tuple[str, str]:
    """Draw two artists, of different families if the class has them."""
    first = concept.artists[rng.integers(len(concept.artists))]
    others = concept.other_family(first)
    return first, others[rng.integers(len(others))]


def distractors(
    rng: np.random.Generator, bank: SpriteBank, concepts: Sequence[SpriteClass], count: int
) -> list[tuple[str, str]]:
    """Draw `count` objects of other classes, as (class, artist)."""
    picked: list[tuple[str, str]] = []
    names = {concept.name for concept in concepts}
    while len(picked) < count:
        other = bank.classes[rng.integers(len(bank.classes))]
        if other.name not in names:
            names.add(other.name)
            picked.append((other.name, other.artists[rng.integers(len(other.artists))]))
    return picked
