"""A source whose classes each have a list of images, with one mask file an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segic_jax.data.episodes import ClassId, Episode, LabelledImage, View
from segic_jax.data.image_files import read_grey, read_rgb, require_size
from segic_jax.data.manifest import Manifest
from segic_jax.data.sampler import choose, draw_others
from segic_jax.errors import DataError


@dataclass
class MaskFileSource:
    """Masks are grey images; `threshold` and above is the object."""

    name: str
    protocols: tuple[str, ...]
    image_names: Mapping[ClassId, Sequence[str]]  # in the order of the draw
    names: Mapping[ClassId, str]  # in words
    paths: Callable[[View], tuple[Path, Path]]  # image and mask; must be picklable
    episodes: int | None = None  # 600 officially; None: as many as there are images
    threshold: int = 128
    _known: set[View] = field(init=False, repr=False)

    def __post_init__(self):
        self._known = set(self.views())

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Raises DataError for another protocol or fold, or where a class has too few images."""
        if protocol not in self.protocols or fold != 0 or shots < 1:
            raise DataError(f"{self.name} is drawn for {', '.join(self.protocols)}, fold 0, 1 shot or more.")
        count = self.episodes or sum(map(len, self.image_names.values()))
        episodes = round_robin_episodes(self.name, self.image_names, count, shots)
        return Manifest(self.name, protocol, fold, shots, tuple(self.image_names), tuple(episodes))

    def class_name(self, class_id: ClassId) -> str:
        """In words. Raises DataError for an unknown class."""
        if class_id not in self.names:
            raise DataError(f"{self.name} has no class {class_id!r}: choose one of {list(self.names)}.")
        return self.names[class_id]

    def views(self) -> Iterator[View]:
        """All images, class by class."""
        for class_id, image_names in self.image_names.items():
            for image_name in image_names:
                yield View(image_name, class_id)

    def load(self, view: View) -> LabelledImage:
        """The image and its mask. Raises DataError for a view that is none, and for bad files."""
        if view not in self._known:
            raise DataError(f"{self.name} has no image {view.image_name} of class {view.class_id!r}.")
        image_path, mask_path = self.paths(view)
        image, mask = read_rgb(image_path), read_grey(mask_path)
        require_size(image, mask, image_path, mask_path)
        return LabelledImage(image, mask >= self.threshold)


def round_robin_episodes(
    name: str, image_names: Mapping[ClassId, Sequence[str]], count: int, shots: int
) -> list[Episode]:
    """The classes in turn; target and references drawn with seed 0 as INSID3's loaders do.

    A reference is drawn until it is not the target; several may be the same.

    Raises:
        DataError: a class has only one image.
    """
    rng = np.random.RandomState(0)
    classes = list(image_names)
    for class_id in classes:
        if len(image_names[class_id]) < 2:
            raise DataError(
                f"{name}: class {class_id!r} has fewer than two images that show it, and an episode takes "
                "two: get the data again."
            )
    episodes = []
    for number in range(count):
        class_id = classes[number % len(classes)]
        target = choose(rng, image_names[class_id])
        references = draw_others(rng, image_names[class_id], target, shots)
        episodes.append(Episode(class_id, target, references))
    return episodes


def find_root(root: Path | str, name: str, inside: str, download: str) -> Path:
    """The benchmark's own folder: `root`, or `name` in it, whichever holds `inside`.

    Raises:
        DataError: neither does.
    """
    root = Path(root)
    for folder in (root / name, root):
        if (folder / inside).is_dir():
            return folder
    folder = root / name if (root / name).is_dir() else root
    raise DataError(f"{folder / inside} is missing: get it from {download}.")


def files(folder: Path, ending: str, download: str) -> list[str]:
    """Names of the files in a folder, sorted; hidden ones, which macOS leaves about, are none.

    Raises:
        DataError: there is none, or one whose ending is in capitals: the official loaders pass it over.
    """
    there = folder.iterdir() if folder.is_dir() else ()
    names = sorted(
        path.name for path in there if path.name.lower().endswith(ending) and not path.name.startswith(".")
    )
    if not names:
        raise DataError(f"{folder} holds no {f'*{ending}' if ending else 'files'}: get them from {download}.")
    for name in names:
        if not name.endswith(ending):
            raise DataError(f"{folder / name} ends in capitals: rename it to end in {ending}.")
    return names


def read_words(path: Path, download: str) -> list[str]:
    """The words of a list, whatever its line ends.

    Raises:
        DataError: it is missing, empty or no text.
    """
    try:
        words = path.read_text("utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is missing or no text: get it from {download}.") from error
    if not words:
        raise DataError(f"{path} is empty: get it again from {download}.")
    return words
