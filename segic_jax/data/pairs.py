"""Training pairs from any source of labelled pictures: a random class, two of its pictures."""

from collections.abc import Sequence

import numpy as np

from segic_jax.data.episodes import ClassId, DataError, Pair, Picture, Source, View


class ClassPairs:
    """Pairs of different pictures of one class."""

    def __init__(self, source: Source, classes: Sequence[ClassId] | None = None):
        """`classes` restricts the pairs to some classes of the source.

        Raises:
            DataError: a class has fewer than two pictures.
        """
        self.source = source
        self.views: dict[ClassId, list[View]] = {}
        for view in source.views():
            if classes is None or view.class_id in classes:
                self.views.setdefault(view.class_id, []).append(view)
        if not self.views:
            raise DataError(f"{source.name} has no class to draw pairs of.")
        for class_id, views in self.views.items():
            if len({view.picture for view in views}) < 2:
                raise DataError(f"{source.name}: class {class_id} has one picture; a pair takes two.")

    def __len__(self) -> int:
        """Views, which is also how many pairs make an epoch."""
        return sum(map(len, self.views.values()))

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random class and two different pictures of it."""
        class_id, views = list(self.views.items())[rng.integers(len(self.views))]
        target, reference = rng.choice(len(views), size=2, replace=False)
        while views[reference].picture == views[target].picture:
            reference = rng.integers(len(views))
        shown = [self.source.load(views[i]) for i in (target, reference)]
        pictures = [Picture(one.image, one.mask[None]) for one in shown]
        return Pair(target=pictures[0], reference=pictures[1], name=self.source.class_name(class_id))
