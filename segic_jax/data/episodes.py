"""What the data sources deliver: pictures, training pairs and evaluation episodes.

A source implements `PairSource` (training), `EpisodeSource` (evaluation) or both. A key is a string
that names one picture with its mask inside its source.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from segic_jax.config import InputError


class DataError(InputError):
    """Data that cannot be used; one sentence that names the file and the mend."""


@dataclass(frozen=True)
class Picture:
    """One picture and the masks of its concepts, at their own size."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    masks: Bool[np.ndarray, "concepts height width"]


@dataclass(frozen=True)
class Pair:
    """A training example: the same concepts, in the same order, in two pictures."""

    target: Picture
    reference: Picture
    name: str  # class name; ignored for instances
    is_instance: bool = False


@dataclass(frozen=True)
class Episode:
    """Segment `class_name` in the target, as shown in the references (keys of the source)."""

    class_name: str
    target: str
    references: tuple[str, ...]


@runtime_checkable
class PairSource(Protocol):
    """Training data."""

    def __len__(self) -> int:
        """How many pairs make one epoch."""
        ...

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw a pair; everything random comes from `rng`."""
        ...


@runtime_checkable
class EpisodeSource(Protocol):
    """Evaluation data."""

    @property
    def name(self) -> str:
        """Of the benchmark, for reports."""
        ...

    @property
    def episodes(self) -> list[Episode]:
        """All episodes, in a fixed order."""
        ...

    def load(self, key: str) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "height width"]]:
        """The RGB image and the mask of one key."""
        ...
