"""The embedded benchmark as training pairs and as a fixed list of episodes."""

import zlib
from dataclasses import dataclass, field

import numpy as np

from segic_jax.data.emoji.compose import BENCHMARK_STYLE, TRAINING_STYLE, compose
from segic_jax.data.emoji.sprites import Split, SpriteBank, SpriteClass
from segic_jax.data.episodes import Episode, Pair, Picture

SCENE_SIDE = 192  # pixels of a benchmark scene
SCENES = 10  # of each class in the benchmark


@dataclass(frozen=True)
class EmojiPairs:
    """Endless training pairs: one class in two scenes, by two artists, among distractors."""

    bank: SpriteBank
    canvas: int
    distractors: int = 3  # at most, in each scene

    def __len__(self) -> int:
        return len(self.bank.classes)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Target and reference scenes of one class."""
        concept = self.bank.classes[rng.integers(len(self.bank.classes))]
        artists = two_artists(rng, concept)
        target, reference = (self._scene(rng, concept, artist) for artist in artists)
        return Pair(target=target, reference=reference, name=concept.label)

    def _scene(self, rng: np.random.Generator, concept: SpriteClass, artist: str) -> Picture:
        others = distractors(rng, self.bank, concept, int(rng.integers(1, self.distractors + 1)))
        image, labels = compose(rng, [(concept.name, artist), *others], self.canvas, TRAINING_STYLE)
        return Picture(image=image, masks=(labels == 1)[None])


@dataclass(frozen=True)
class EmojiSource:
    """A fixed benchmark on the classes of one split: SCENES scenes a class, each a target once.

    The reference of a target is the next scene of its class. A scene is drawn when it is asked for,
    from a generator keyed by its name.
    """

    split: Split
    name: str = "emoji"
    shots: int = 1
    bank: SpriteBank = field(init=False)
    episodes: list[Episode] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "bank", SpriteBank.load(self.split))
        object.__setattr__(
            self,
            "episodes",
            [
                Episode(
                    class_name=concept.name,
                    target=f"{concept.name}/{number}",
                    references=tuple(
                        f"{concept.name}/{(number + shot) % SCENES + 1}" for shot in range(self.shots)
                    ),
                )
                for concept in self.bank.classes
                for number in range(1, SCENES + 1)
            ],
        )

    def load(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`<class>/<number>` -> RGB uint8 [192, 192, 3] and mask bool [192, 192]."""
        name, number = key.split("/")
        concept = next(c for c in self.bank.classes if c.name == name)
        rng = np.random.default_rng([zlib.crc32(name.encode()), int(number)])
        artist = concept.artists[(int(number) - 1) % len(concept.artists)]
        others = distractors(rng, self.bank, concept, int(rng.integers(1, 4)))
        image, labels = compose(rng, [(name, artist), *others], SCENE_SIDE, BENCHMARK_STYLE)
        return image, labels == 1


def two_artists(rng: np.random.Generator, concept: SpriteClass) -> tuple[str, str]:
    """Two artists, of different families where the class has them."""
    first = concept.artists[rng.integers(len(concept.artists))]
    others = concept.other_family(first)
    return first, others[rng.integers(len(others))]


def distractors(
    rng: np.random.Generator, bank: SpriteBank, concept: SpriteClass, count: int
) -> list[tuple[str, str]]:
    """`count` objects of other classes, as (class, artist)."""
    picked: list[tuple[str, str]] = []
    names = {concept.name}
    while len(picked) < count:
        other = bank.classes[rng.integers(len(bank.classes))]
        if other.name not in names:
            names.add(other.name)
            picked.append((other.name, other.artists[rng.integers(len(other.artists))]))
    return picked
