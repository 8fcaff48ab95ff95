"""Define what the sources of semantic segmentation deliver, and read the usual layout of label maps.

`LabelMaps` reads a folder of images and a folder of label maps for each split, `draw_references` draws the
images that show each class, and `index_classes` finds the classes of every image.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from segic_jax.data.benchmark_spec import CheckLine
from segic_jax.data.disk_cache import cached_folder
from segic_jax.data.episodes import LabelledImage
from segic_jax.data.images import read_labels, read_rgb
from segic_jax.data.layout import list_files
from segic_jax.data.masks import fit_to_image
from segic_jax.errors import DataError
from segic_jax.runtime import progress
from segic_jax.runtime.prefetch import prefetch_results

Split = Literal["train", "val"]
INDEX_FILE = "present.json"
INDEX_THREADS = 8


class SemanticImage(NamedTuple):
    """Hold an image and the masks of the classes on it; they may overlap, as COCO's do."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    classes: tuple[int, ...]  # those on the image, ascending
    masks: Bool[np.ndarray, "present height width"]
    ignored: Bool[np.ndarray, "height width"]  # pixels without a label, which belong to no class
    note: str = ""  # how a defect of the files was handled, for results and checks


@runtime_checkable
class SemanticSource(Protocol):
    """Give the images and masks of a benchmark of semantic segmentation; classes are numbered from 0."""

    @property
    def name(self) -> str:
        """Return the benchmark's name, for reports."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names for text prompts, by class number; two classes may share a name."""
        ...

    def image_names(self, split: Split) -> list[str]:
        """Return the names of all images of a split, sorted.

        Raises:
            DataError: the split is not on disk.
        """
        ...

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """Return the classes on an image, ascending, without reading the image itself.

        Raises:
            DataError: its labels are missing or damaged.
        """
        ...

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """Read an image and its labels.

        Raises:
            DataError: a file is missing or damaged, or image and labels differ in size.
        """
        ...


@dataclass(frozen=True)
class Folders:
    """Name the folders of one split; an image and its label map have the same stem."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class LabelMaps:
    """Read label maps in which the value `first` is class 0 and `ignored` is no class."""

    name: str
    classes: tuple[str, ...]
    folders: Mapping[Split, Folders]
    ending: str  # of the label maps
    first: int
    ignored: int
    download: str

    def image_names(self, split: Split) -> list[str]:
        """Return the stems of the split's label maps, sorted."""
        folder = self.folders[split].labels
        if not folder.is_dir():
            raise DataError(
                f"{folder} is missing, so {self.name} has no {split} split here: get it from "
                f"{self.download}, or take references from the other split (--bank)."
            )
        return [name.removesuffix(self.ending) for name in list_files(folder, self.ending, self.download)]

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """Return the classes in a label map, ascending."""
        labels = self._labels(self._paths(split, image_name)[1])
        return tuple(np.unique(labels[labels >= 0]).tolist())

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """Read the image, a mask for each class on it, and the ignored pixels."""
        image_path, label_path = self._paths(split, image_name)
        image = read_rgb(image_path)
        labels, note = fit_to_image(self._labels(label_path), image, label_path, image_path)
        classes = np.unique(labels[labels >= 0])
        masks = labels == classes[:, None, None]
        return SemanticImage(image, tuple(classes.tolist()), masks, labels < 0, note)

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """Read the image and the mask of one class, without checking its other labels."""
        image_path, label_path = self._paths(split, image_name)
        image = read_rgb(image_path)
        labels, note = fit_to_image(read_labels(label_path), image, label_path, image_path)
        return LabelledImage(image, labels == number + self.first, note=note)

    def check(self, needed: Mapping[Split, int | None]) -> list[CheckLine]:
        """Count the label maps of each split and find missing images.

        Args:
            needed: by split how many there must be; None for any number.
        """
        lines = []
        for split, number in needed.items():
            folders = self.folders[split]
            what = f"label maps in {folders.labels}"
            try:
                stems = set(self.image_names(split))
            except DataError as error:
                lines.append(CheckLine(what, 0, number, str(error)))
                continue
            problem = (
                "" if number in (None, len(stems)) else f"Get the complete data set from {self.download}."
            )
            lines.append(CheckLine(what, len(stems), number, problem))
            images = {path.stem for path in folders.images.glob("*.jpg")}
            missing = sorted(stems - images)
            problem = f"{folders.images / missing[0]}.jpg is missing: get it again." if missing else ""
            lines.append(
                CheckLine(f"their images in {folders.images}", len(stems & images), len(stems), problem)
            )
        return lines

    def _paths(self, split: Split, image_name: str) -> tuple[Path, Path]:
        folders = self.folders[split]
        return folders.images / f"{image_name}.jpg", folders.labels / f"{image_name}{self.ending}"

    def _labels(self, path: Path) -> Integer[np.ndarray, "height width"]:
        """Read class numbers; -1 is no class."""
        stored = read_labels(path)
        if not np.issubdtype(stored.dtype, np.integer):
            raise DataError(f"{path} holds fractions: save integer class numbers.")
        labels = stored.astype(np.int32) - self.first
        labels[stored == self.ignored] = -1
        wrong = (labels >= len(self.classes)) | ((labels < 0) & (stored != self.ignored))
        if wrong.any():
            raise DataError(
                f"{path} holds the value {int(stored[wrong][0])}; {self.name} has {self.first} to "
                f"{self.first + len(self.classes) - 1}, and {self.ignored} for no class: prepare it again."
            )
        return labels


def class_names(name: str) -> tuple[str, ...]:
    """Return the classes of a benchmark in order, from the list in the package."""
    text = resources.files("segic_jax.data").joinpath(f"splits/{name}_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def draw_references(
    source: SemanticSource, split: Split, count: int, *, seed: int = 0
) -> dict[int, tuple[str, ...]]:
    """Draw `count` images for each class of the source, or all images of a class that has fewer.

    The split's images, sorted, are put in the order of `numpy.random.RandomState(seed).permutation(n)`; a
    class takes the first ones that show it, which is a uniform draw for each class. One image may serve
    several classes. Only as many label maps as necessary are read.
    """
    image_names = source.image_names(split)
    drawn: dict[int, list[str]] = {number: [] for number in range(len(source.classes))}
    incomplete = set(drawn)
    order = np.random.RandomState(seed).permutation(len(image_names))
    for i in progress.bar(order.tolist(), desc="reference draw", unit="label map", leave=False):
        if not incomplete:
            break
        for number in incomplete.intersection(source.present(split, image_names[i])):
            drawn[number].append(image_names[i])
            if len(drawn[number]) == count:
                incomplete.discard(number)
    return {number: tuple(chosen) for number, chosen in drawn.items()}


def index_classes(source: LabelMaps, split: Split) -> dict[str, tuple[int, ...]]:
    """Return the classes of each image, read from all label maps once and from the cache afterwards.

    The cache is used while the label maps have the same names and sizes.

    Raises:
        DataError: there are no label maps, or one is damaged.
    """
    image_names = source.image_names(split)
    folder = source.folders[split].labels
    with os.scandir(folder) as entries:
        listing = sorted((entry.name, entry.stat().st_size) for entry in entries)
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    version = [source.name, split, source.first, source.ignored, str(folder.resolve()), digest]

    def read(image_name: str) -> tuple[int, ...]:
        return source.present(split, image_name)

    def fill(cache: Path) -> None:
        classes = prefetch_results(read, image_names, threads=INDEX_THREADS, limit=16 * INDEX_THREADS)
        what = f"classes of {source.name}"
        bar = progress.bar(classes, total=len(image_names), desc=what, unit="label map")
        (cache / INDEX_FILE).write_text(json.dumps(list(bar)), "utf-8")

    stored = json.loads((cached_folder("classes", version, fill) / INDEX_FILE).read_text("utf-8"))
    return {image_name: tuple(classes) for image_name, classes in zip(image_names, stored, strict=True)}
