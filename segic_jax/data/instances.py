"""Instance training pairs: one image, twice; the pipeline makes two views of it (utils/fss_inst.py)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from segic_jax.data.episodes import AnnotatedImage, Pair
from segic_jax.errors import DataError


@runtime_checkable
class InstanceReader(Protocol):
    """Images by number. Pickled into worker processes: keep open files and large caches out."""

    def __len__(self) -> int:
        """How many."""
        ...

    def load(self, number: int) -> AnnotatedImage:
        """One image, with a mask for each of its instances; they may overlap.

        Raises:
            DataError: a file is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class InstancePairs:
    """Every image is as likely as any other."""

    reader: InstanceReader

    has_instances = True
    class_names = ()

    def __post_init__(self):
        if not len(self.reader):
            raise DataError("There is no image with instances to draw pairs of.")

    def __len__(self) -> int:
        return len(self.reader)

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random image as target and as reference."""
        image = self.reader.load(int(rng.integers(len(self.reader))))
        return Pair(target=image, reference=image, name="", is_instance=True)
