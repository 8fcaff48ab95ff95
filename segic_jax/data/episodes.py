"""Define what the data sources deliver: images with masks, training pairs and evaluation episodes.

A source implements `PairSource` (training), `manifest.EpisodeSource` (evaluation) or both.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

ClassId = int | str  # as the benchmark numbers or names its classes


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


class View(NamedTuple):
    """Name one mask on one image, as the source names them."""

    image_name: str
    class_id: ClassId
    instance: int | None = None  # the object's number; None if the mask is of all objects of the class


class LabelledImage(NamedTuple):
    """Hold the image and the mask of a view."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    mask: Bool[np.ndarray, "height width"]
    ignored: Bool[np.ndarray, "height width"] | None = None  # pixels that no score counts


@dataclass(frozen=True)
class Episode:
    """Ask for a class on the target image, given reference images of it."""

    class_id: ClassId
    target: str
    references: tuple[str, ...]  # an image may occur twice: the field's draws do that
    instances: tuple[int, ...] = ()  # of the target, then of each reference, if the benchmark has them

    @property
    def target_view(self) -> View:
        """Return the target with its true mask."""
        return View(self.target, self.class_id, self.instances[0] if self.instances else None)

    @property
    def reference_views(self) -> tuple[View, ...]:
        """Return the references in order."""
        instances = self.instances[1:] or (None,) * len(self.references)
        return tuple(
            View(image_name, self.class_id, instance)
            for image_name, instance in zip(self.references, instances, strict=True)
        )


@runtime_checkable
class PairSource(Protocol):
    """Give training pairs; sources are pickled into worker processes: keep open files and large caches
    out."""

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
