"""Define training pairs, draw them from sources of labelled images, and mix several sources.

`ClassPairs` draws the class first, as the official loader of COCO-20i does. `ImagePairs` draws the image
first, as that of ADE20K does. Both name the classes that are in neither image if the source can tell them.
`InstancePairs` takes one image twice; the pipeline makes two views of it. `Mixture` draws each pair from one
of several sources.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from segic_jax.data.episodes import ClassId, EpisodeSource, LabelledImage, View
from segic_jax.data.semantic import Split
from segic_jax.errors import DataError, InputWarning


@dataclass(frozen=True)
class AnnotatedImage:
    """Hold an image and the masks of its concepts, at their own size."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    masks: Bool[np.ndarray, "concepts height width"]


@dataclass(frozen=True)
class Pair:
    """Hold a training example: the same concepts, in the same order, on two images."""

    target: AnnotatedImage
    reference: AnnotatedImage
    name: str  # of the class; "" for several classes without names; ignored for instances
    is_instance: bool = False  # both images are the same one; the pipeline makes two views of it
    absent: tuple[str, ...] = ()  # names of classes that are on neither image, for negative prompts


@runtime_checkable
class PairSource(Protocol):
    """Give training pairs.

    Sources are pickled into worker processes: keep open files and large caches out.
    """

    def __len__(self) -> int:
        """Return the number of pairs in an epoch."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return every name that a pair can have or can name as absent; none for instances."""
        ...

    @property
    def has_instances(self) -> bool:
        """Return whether some of the pairs are instances."""
        ...

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw a pair; all its randomness comes from `rng`.

        Raises:
            DataError: a file of this pair is missing or damaged.
        """
        ...


class ClassPairs:
    """Draw a class and two different images of it; all classes are equally likely.

    Source: utils/fss.py, `DatasetCOCO`.
    """

    has_instances = False

    def __init__(
        self, source: EpisodeSource, classes: Sequence[ClassId] | None = None, *, exhaustive: bool = False
    ):
        """Index the views of a source by class.

        Args:
            classes: restricts the pairs to some classes of the source.
            exhaustive: an image has a view of each class on it, so that all other classes are absent.

        Raises:
            DataError: no class has two images; those that have one are left out with an InputWarning.
        """
        self.source = source
        views: dict[Any, list[View]] = {}  # a source numbers its classes or names them, not both
        for view in source.views():
            if classes is None or view.class_id in classes:
                views.setdefault(view.class_id, []).append(view)
        single = {
            class_id
            for class_id, class_views in views.items()
            if len({view.image_name for view in class_views}) < 2
        }
        self.views: dict[ClassId, list[View]] = {
            class_id: views[class_id] for class_id in sorted(views) if class_id not in single
        }
        if not self.views:
            raise DataError(f"{source.name} has no class of two images to draw pairs of.")
        if single:
            listed = ", ".join(source.class_name(class_id) for class_id in sorted(single))
            warnings.warn(
                f"{source.name}: a pair needs two images, and there is one of {listed}: left out.",
                InputWarning,
                stacklevel=2,
            )
        self._names = {class_id: source.class_name(class_id) for class_id in self.views}
        self._present: dict[str, set[ClassId]] | None = {} if exhaustive else None
        if self._present is not None:
            for class_id, class_views in self.views.items():
                for view in class_views:
                    self._present.setdefault(view.image_name, set()).add(class_id)

    def __len__(self) -> int:
        """Return the number of views, which is the number of pairs in an epoch."""
        return sum(map(len, self.views.values()))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, each once."""
        return tuple(dict.fromkeys(self._names.values()))

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw a class and two different images of it."""
        class_id, views = list(self.views.items())[rng.integers(len(self.views))]
        target, reference = rng.choice(len(views), size=2, replace=False)
        while views[reference].image_name == views[target].image_name:
            reference = rng.integers(len(views))
        chosen = [views[target], views[reference]]
        absent: tuple[str, ...] = ()
        if self._present is not None:
            absent = _absent(self._names, *(self._present[view.image_name] for view in chosen))
        return _pair(list(map(self.source.load, chosen)), self._names[class_id], absent)


@runtime_checkable
class SemanticReader(Protocol):
    """Give `ImagePairs` the images of a source of semantic segmentation."""

    @property
    def name(self) -> str:
        """Return the benchmark's name, for error messages."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, by class number."""
        ...

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """Return an image and the mask of one class.

        Raises:
            DataError: a file is missing or damaged, or image and labels differ in size.
        """
        ...


class ImagePairs:
    """Draw an image, one of its classes, and another image with that class (utils/fss.py, `SemADE`).

    A class that is on one image only is never drawn: the official code would take the target as its own
    reference.
    """

    has_instances = False

    def __init__(self, source: SemanticReader, split: Split, present: Mapping[str, Sequence[int]]):
        """Index the images of a split by class.

        Args:
            present: the classes of each image of the split.

        Raises:
            DataError: no class has two images.
        """
        self.source, self.split = source, split
        self._present = {image_name: tuple(classes) for image_name, classes in present.items()}
        by_class: dict[int, list[str]] = {}
        for image_name, classes in self._present.items():
            for number in classes:
                by_class.setdefault(number, []).append(image_name)
        self._images = {number: names for number, names in sorted(by_class.items()) if len(names) > 1}
        self._targets = [
            image_name
            for image_name, classes in self._present.items()
            if any(number in self._images for number in classes)
        ]
        if not self._targets:
            raise DataError(f"{source.name}: no class has two images in {split}; a pair needs two.")

    def __len__(self) -> int:
        """Return the number of images that can be a target."""
        return len(self._targets)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of all classes of the source: one that is never drawn may still be absent."""
        return tuple(dict.fromkeys(self.source.classes))

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw an image, one of its classes, and another image of that class."""
        target = self._targets[rng.integers(len(self._targets))]
        classes = [number for number in self._present[target] if number in self._images]
        number = classes[rng.integers(len(classes))]
        others = self._images[number]
        reference = others[rng.integers(len(others) - 1)]
        if reference == target:  # the last image, which is never drawn, replaces it
            reference = others[-1]
        present = (set(self._present[image_name]) for image_name in (target, reference))
        absent = _absent(dict(enumerate(self.source.classes)), *present)
        loaded = [self.source.load_class(self.split, name, number) for name in (target, reference)]
        return _pair(loaded, self.source.classes[number], absent)


@runtime_checkable
class InstanceReader(Protocol):
    """Give `InstancePairs` images by number; readers are pickled into worker processes: keep caches out."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def load(self, number: int) -> AnnotatedImage:
        """Return an image with a mask for each of its instances; masks may overlap.

        Raises:
            DataError: a file is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class InstancePairs:
    """Draw an image, each as often as any other, as target and as reference (utils/fss_inst.py)."""

    reader: InstanceReader

    has_instances = True
    class_names = ()

    def __post_init__(self):
        if not len(self.reader):
            raise DataError("There is no image with instances to draw pairs of.")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.reader)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw an image; the pipeline makes two views of it."""
        image = self.reader.load(int(rng.integers(len(self.reader))))
        return Pair(target=image, reference=image, name="", is_instance=True)


class Mixture:
    """Draw each pair from one of several sources, chosen by weight (utils/dataset.py)."""

    def __init__(self, sources: Sequence[PairSource], weights: Sequence[float]):
        """Set the sources and their weights, which are relative to each other.

        Raises:
            DataError: there is no source, or not a positive weight for each.
        """
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise DataError(
                f"{len(sources)} sources with the weights {list(weights)}: give each source a weight above 0."
            )
        self.sources = tuple(sources)
        self._ends = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        """Return the number of pairs of all sources together."""
        return sum(map(len, self.sources))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the class names of all sources, each once."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.class_names))

    @property
    def has_instances(self) -> bool:
        """Return whether one of the sources gives instances."""
        return any(source.has_instances for source in self.sources)

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw a pair of one source; its absent classes are classes of that source."""
        number = int(np.searchsorted(self._ends[:-1], rng.random(), side="right"))
        return self.sources[number].pair(rng)


def _absent(names: Mapping, target: set, reference: set) -> tuple[str, ...]:
    """Return the names of classes on neither image; a name of two classes is absent only if both are."""
    present = {names[class_id] for class_id in target | reference}
    return tuple(dict.fromkeys(name for name in names.values() if name not in present))


def _pair(loaded: list[LabelledImage], name: str, absent: tuple[str, ...]) -> Pair:
    target, reference = (AnnotatedImage(image.image, image.mask[None]) for image in loaded)
    return Pair(target=target, reference=reference, name=name, absent=absent)
