"""Several sources of training pairs as one."""

from collections.abc import Sequence

import numpy as np

from segic_jax.data.episodes import Pair, PairSource
from segic_jax.errors import DataError


class Mixture:
    """Each pair comes from one of the sources, drawn by weight (utils/dataset.py)."""

    def __init__(self, sources: Sequence[PairSource], weights: Sequence[float]):
        """Weights are relative to each other.

        Raises:
            DataError: there is no source, or not one positive weight for each.
        """
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise DataError(
                f"{len(sources)} sources with the weights {list(weights)}: give each one above 0."
            )
        self.sources = tuple(sources)
        self._ends = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        """Of all sources together."""
        return sum(map(len, self.sources))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all sources, each name once."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.class_names))

    @property
    def has_instances(self) -> bool:
        """Whether one of the sources has."""
        return any(source.has_instances for source in self.sources)

    def pair(self, rng: np.random.Generator) -> Pair:
        """A pair of one of the sources; a class that only another one names is not among the absent ones."""
        number = int(np.searchsorted(self._ends[:-1], rng.random(), side="right"))
        return self.sources[number].pair(rng)
