"""What the data sources deliver: images with masks, training pairs and evaluation episodes.

A source implements `PairSource` (training), `manifest.EpisodeSource` (evaluation) or both.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

ClassId = int | str  # as the benchmark numbers or names its classes


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and the masks of its concepts, at their own size."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    masks: Bool[np.ndarray, "concepts height width"]


@dataclass(frozen=True)
class Pair:
    """A training example: the same concepts, in the same order, in two images."""

    target: AnnotatedImage
    reference: AnnotatedImage
    name: str  # of the class; "" for several classes without names; ignored for instances
    is_instance: bool = False  # both images are the same one; the pipeline makes two views of it
    absent: tuple[str, ...] = ()  # names of classes that are in neither image, for negative prompts


class View(NamedTuple):
    """One image with one mask on it, as its source names them."""

    image_name: str
    class_id: ClassId
    instance: int | None = None  # which object of the class; None where all of them make the mask


class LabelledImage(NamedTuple):
    """What a view shows."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    mask: Bool[np.ndarray, "height width"]
    ignored: Bool[np.ndarray, "height width"] | None = None  # pixels that no score counts


@dataclass(frozen=True)
class Episode:
    """Segment a class in the target as the references show it."""

    class_id: ClassId
    target: str
    references: tuple[str, ...]  # an image may come twice: the field's draws do that
    instances: tuple[int, ...] = ()  # the target's, then each reference's, where the benchmark has them

    @property
    def target_view(self) -> View:
        """The target with its true mask."""
        return View(self.target, self.class_id, self.instances[0] if self.instances else None)

    @property
    def reference_views(self) -> tuple[View, ...]:
        """The shots in order."""
        instances = self.instances[1:] or (None,) * len(self.references)
        return tuple(
            View(image_name, self.class_id, instance)
            for image_name, instance in zip(self.references, instances, strict=True)
        )


@runtime_checkable
class PairSource(Protocol):
    """Training data. Instances are pickled into worker processes: keep open files and large caches out."""

    def __len__(self) -> int:
        """How many pairs make one epoch."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every name that a pair can have, or name as absent; none for instances."""
        ...

    @property
    def has_instances(self) -> bool:
        """Whether some of the pairs are instances."""
        ...

    def pair(self, rng: np.random.Generator) -> Pair:
        """Draw a pair; everything random comes from `rng`.

        Raises:
            DataError: a file of this pair is missing or damaged.
        """
        ...
