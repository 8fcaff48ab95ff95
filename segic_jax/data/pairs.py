"""Semantic training pairs: one class in two different images of any source of labelled images.

`ClassPairs` draws the class first, as the official loader of COCO-20i does; `ImagePairs` draws the image
first, as that of ADE20k does. Both say which classes are in neither image where the source can know it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from segic_jax.data.episodes import AnnotatedImage, ClassId, LabelledImage, Pair, View
from segic_jax.data.manifest import EpisodeSource
from segic_jax.data.semantic import Split
from segic_jax.errors import DataError


class ClassPairs:
    """A class, each as often as any other, and two different images of it (utils/fss.py, `DatasetCOCO`)."""

    has_instances = False

    def __init__(
        self, source: EpisodeSource, classes: Sequence[ClassId] | None = None, *, exhaustive: bool = False
    ):
        """`classes` restricts the pairs to some classes of the source.

        Args:
            exhaustive: an image has a view of each class that it shows; the other classes are absent.

        Raises:
            DataError: a class has fewer than two images.
        """
        self.source = source
        views: dict[Any, list[View]] = {}  # a source numbers its classes or names them, not both
        for view in source.views():
            if classes is None or view.class_id in classes:
                views.setdefault(view.class_id, []).append(view)
        self.views: dict[ClassId, list[View]] = dict(sorted(views.items()))
        if not self.views:
            raise DataError(f"{source.name} has no class to draw pairs of.")
        for class_id, of in self.views.items():
            if len({view.image_name for view in of}) < 2:
                raise DataError(f"{source.name}: class {class_id} has one image; a pair takes two.")
        self._names = {class_id: source.class_name(class_id) for class_id in self.views}
        self._shown: dict[str, set[ClassId]] | None = {} if exhaustive else None
        if self._shown is not None:
            for class_id, of in self.views.items():
                for view in of:
                    self._shown.setdefault(view.image_name, set()).add(class_id)

    def __len__(self) -> int:
        """Views, which is also how many pairs make an epoch."""
        return sum(map(len, self.views.values()))

    @property
    def class_names(self) -> tuple[str, ...]:
        """In words."""
        return tuple(dict.fromkeys(self._names.values()))

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random class and two different images of it."""
        class_id, views = list(self.views.items())[rng.integers(len(self.views))]
        target, reference = rng.choice(len(views), size=2, replace=False)
        while views[reference].image_name == views[target].image_name:
            reference = rng.integers(len(views))
        chosen = [views[target], views[reference]]
        absent: tuple[str, ...] = ()
        if self._shown is not None:
            absent = _absent(self._names, *(self._shown[view.image_name] for view in chosen))
        return _pair(list(map(self.source.load, chosen)), self._names[class_id], absent)


@runtime_checkable
class SemanticReader(Protocol):
    """What `ImagePairs` reads."""

    @property
    def name(self) -> str:
        """Of the benchmark, for error messages."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by class number."""
        ...

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """An image and the mask of one class.

        Raises:
            DataError: a file is missing or damaged, or image and labels differ in size.
        """
        ...


class ImagePairs:
    """An image, one of its classes, and another image with that class (utils/fss.py, `SemADE`).

    A class that only one image shows is never drawn: the official code would take it as its own reference.
    """

    has_instances = False

    def __init__(self, source: SemanticReader, split: Split, present: Mapping[str, Sequence[int]]):
        """`present` has the classes of each image of the split.

        Raises:
            DataError: no class has two images.
        """
        self.source, self.split = source, split
        self._present = {image_name: tuple(classes) for image_name, classes in present.items()}
        image_names: dict[int, list[str]] = {}
        for image_name, classes in self._present.items():
            for number in classes:
                image_names.setdefault(number, []).append(image_name)
        self._images = {number: of for number, of in sorted(image_names.items()) if len(of) > 1}
        self._targets = [
            image_name
            for image_name, classes in self._present.items()
            if any(number in self._images for number in classes)
        ]
        if not self._targets:
            raise DataError(f"{source.name}: no class has two images in {split}; a pair takes two.")

    def __len__(self) -> int:
        """Images."""
        return len(self._targets)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all classes of the source: one that is never drawn may still be named as absent."""
        return tuple(dict.fromkeys(self.source.classes))

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random image, one of its classes, another image of it."""
        target = self._targets[rng.integers(len(self._targets))]
        classes = [number for number in self._present[target] if number in self._images]
        number = classes[rng.integers(len(classes))]
        others = self._images[number]
        reference = others[rng.integers(len(others) - 1)]
        if reference == target:  # the last one stands in its place
            reference = others[-1]
        shown = (set(self._present[image_name]) for image_name in (target, reference))
        absent = _absent(dict(enumerate(self.source.classes)), *shown)
        loaded = [
            self.source.load_class(self.split, image_name, number) for image_name in (target, reference)
        ]
        return _pair(loaded, self.source.classes[number], absent)


def _absent(names: Mapping, target: set, reference: set) -> tuple[str, ...]:
    """A name that two classes share is absent only where both are."""
    shown = {names[one] for one in target | reference}
    return tuple(dict.fromkeys(name for name in names.values() if name not in shown))


def _pair(loaded: list[LabelledImage], name: str, absent: tuple[str, ...]) -> Pair:
    target, reference = (AnnotatedImage(one.image, one.mask[None]) for one in loaded)
    return Pair(target=target, reference=reference, name=name, absent=absent)
