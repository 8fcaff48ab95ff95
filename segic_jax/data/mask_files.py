"""Read benchmarks in which each class has a list of images, with one mask file for each image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segic_jax.data.episodes import ClassId, LabelledImage, Manifest, View
from segic_jax.data.images import read_grey, read_rgb
from segic_jax.data.masks import fit_to_image
from segic_jax.data.sampler import classes_with_images, round_robin_episodes
from segic_jax.errors import DataError


@dataclass
class MaskFileSource:
    """Give the episodes, images and masks of such a benchmark; masks are grey images."""

    name: str
    protocols: tuple[str, ...]
    image_names: Mapping[ClassId, Sequence[str]]  # in the order of the draw
    names: Mapping[ClassId, str]  # class names as a text prompt takes them
    paths: Callable[[View], tuple[Path, Path]]  # image and mask of a view; must be picklable
    episodes: int | None = None  # 600 officially; None: as many as there are images
    threshold: int = 128  # grey values of the object, at least
    left_out: Sequence[str] = ()  # sentences about files that are not listed
    _views: set[View] = field(init=False, repr=False)

    def __post_init__(self):
        self._views = set(self.views())

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Draw the episodes; classes of fewer than two images, where the official code stops, have none.

        Raises:
            DataError: another protocol or fold, or no class has two images.
        """
        if protocol not in self.protocols or fold != 0 or shots < 1:
            raise DataError(
                f"{self.name} supports the protocols {', '.join(self.protocols)} "
                "with fold 0 and at least 1 shot."
            )
        image_names, notes = classes_with_images(self.image_names, 2, self.label)
        count = self.episodes or sum(map(len, image_names.values()))
        episodes = round_robin_episodes(image_names, count, shots)
        return Manifest(
            self.name, protocol, fold, shots, tuple(image_names), tuple(episodes), (*self.left_out, *notes)
        )

    def label(self, class_id: ClassId) -> str:
        """Return how messages call a class."""
        return f"{self.name}: {class_id} ({self.names[class_id]})"

    def class_name(self, class_id: ClassId) -> str:
        """Return a class's name. Raises DataError for an unknown class."""
        if class_id not in self.names:
            raise DataError(f"{self.name} has no class {class_id!r}: choose one of {list(self.names)}.")
        return self.names[class_id]

    def views(self) -> Iterator[View]:
        """Yield all images, class by class."""
        for class_id, image_names in self.image_names.items():
            for image_name in image_names:
                yield View(image_name, class_id)

    def load(self, view: View) -> LabelledImage:
        """Read the image and its mask.

        Raises:
            DataError: the view is unknown, or a file is missing or damaged.
        """
        if view not in self._views:
            raise DataError(f"{self.name} has no image {view.image_name} of class {view.class_id!r}.")
        image_path, mask_path = self.paths(view)
        image, mask = read_rgb(image_path), read_grey(mask_path)
        mask, note = fit_to_image(mask, image, mask_path, image_path)
        return LabelledImage(image, mask >= self.threshold, note=note)
