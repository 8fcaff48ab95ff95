"""Images in which every pixel has a class: what the sources of semantic segmentation deliver.

`LabelMaps` reads the usual layout, a folder of images and a folder of label maps for each split;
`draw_references` chooses the images that show each class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from segic_jax.data.benchmark_spec import CheckLine
from segic_jax.data.episodes import LabelledImage
from segic_jax.data.image_files import read_labels, read_rgb, require_size
from segic_jax.data.mask_files import files
from segic_jax.errors import DataError
from segic_jax.runtime import progress

Split = Literal["train", "val"]


class SemanticImage(NamedTuple):
    """An image and the masks of the classes on it; they may overlap (COCO's do)."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    classes: tuple[int, ...]  # those present, rising
    masks: Bool[np.ndarray, "present height width"]
    ignored: Bool[np.ndarray, "height width"]  # pixels without a label; no class has them


@runtime_checkable
class SemanticSource(Protocol):
    """Evaluation data of a benchmark of semantic segmentation; classes are numbered 0.. in its own order."""

    @property
    def name(self) -> str:
        """Of the benchmark, for reports."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names as a text prompt takes them, by class number; two classes may share one."""
        ...

    def image_names(self, split: Split) -> list[str]:
        """All images of a split, sorted.

        Raises:
            DataError: the data on disk have no such split.
        """
        ...

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """The classes on an image, rising, without reading the image itself.

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
    """Where one split lies; an image and its label map have the same stem."""

    images: Path
    labels: Path


@dataclass(frozen=True)
class LabelMaps:
    """Label maps in files: value `first` is class 0, `ignored` is no class."""

    name: str
    classes: tuple[str, ...]
    folders: Mapping[Split, Folders]
    ending: str  # of the label maps
    first: int
    ignored: int
    download: str

    def image_names(self, split: Split) -> list[str]:
        """Stems of the split's label maps."""
        folder = self.folders[split].labels
        if not folder.is_dir():
            raise DataError(
                f"{folder} is missing, so {self.name} has no {split} split here: get it from "
                f"{self.download}, or take references from the other split (--bank)."
            )
        return [name.removesuffix(self.ending) for name in files(folder, self.ending, self.download)]

    def present(self, split: Split, image_name: str) -> tuple[int, ...]:
        """The classes in a label map."""
        labels = self._labels(self._paths(split, image_name)[1])
        return tuple(np.unique(labels[labels >= 0]).tolist())

    def load(self, split: Split, image_name: str) -> SemanticImage:
        """The image, a mask for each class, and what is ignored."""
        image_path, label_path = self._paths(split, image_name)
        image, labels = read_rgb(image_path), self._labels(label_path)
        require_size(image, labels, image_path, label_path)
        classes = np.unique(labels[labels >= 0])
        return SemanticImage(image, tuple(classes.tolist()), labels == classes[:, None, None], labels < 0)

    def load_class(self, split: Split, image_name: str, number: int) -> LabelledImage:
        """The image and the mask of one class; its other labels are not checked, as `present` does."""
        image_path, label_path = self._paths(split, image_name)
        image, labels = read_rgb(image_path), read_labels(label_path)
        require_size(image, labels, image_path, label_path)
        return LabelledImage(image, labels == number + self.first)

    def check(self, needed: Mapping[Split, int | None]) -> list[CheckLine]:
        """Label maps of each split, counted, and the images that they lack."""
        lines = []
        for split, number in needed.items():
            folders = self.folders[split]
            what = f"label maps in {folders.labels}"
            try:
                stems = set(self.image_names(split))
            except DataError as error:
                lines.append(CheckLine(what, 0, number, str(error)))
                continue
            problem = "" if number in (None, len(stems)) else f"Get the whole data set from {self.download}."
            lines.append(CheckLine(what, len(stems), number, problem))
            there = {path.stem for path in folders.images.glob("*.jpg")}
            missing = sorted(stems - there)
            problem = f"{folders.images / missing[0]}.jpg is missing: get it again." if missing else ""
            lines.append(
                CheckLine(f"their images in {folders.images}", len(stems & there), len(stems), problem)
            )
        return lines

    def _paths(self, split: Split, image_name: str) -> tuple[Path, Path]:
        folders = self.folders[split]
        return folders.images / f"{image_name}.jpg", folders.labels / f"{image_name}{self.ending}"

    def _labels(self, path: Path) -> Integer[np.ndarray, "height width"]:
        """Class numbers; -1 where there is none."""
        stored = read_labels(path)
        if not np.issubdtype(stored.dtype, np.integer):
            raise DataError(f"{path} holds numbers with a fraction: save whole class numbers.")
        labels = stored.astype(np.int32) - self.first
        labels[stored == self.ignored] = -1
        wrong = (labels >= len(self.classes)) | ((labels < 0) & (stored != self.ignored))
        if wrong.any():
            raise DataError(
                f"{path} holds the value {int(stored[wrong][0])}; {self.name} has {self.first} to "
                f"{self.first + len(self.classes) - 1}, and {self.ignored} for none: prepare the data again."
            )
        return labels


def class_names(name: str) -> tuple[str, ...]:
    """The classes of a benchmark in order, from the package."""
    text = resources.files("segic_jax.data").joinpath(f"splits/{name}_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def find_folder(root: Path, inner: str, marker: str) -> Path:
    """`root` / `inner`, or `root` itself or a folder between where `marker` shows that it was given."""
    parts = Path(inner).parts
    for start in range(len(parts) + 1):
        folder = root.joinpath(*parts[start:])
        if (folder / marker).is_dir():
            return folder
    raise DataError(f"{root} has no {inner}/{marker}: give the folder that holds {inner}.")


def draw_references(
    source: SemanticSource, split: Split, count: int, *, seed: int = 0
) -> dict[int, tuple[str, ...]]:
    """`count` images for each class of the source, or as many as the split has of it.

    The split's images, sorted, are put in the order of
    `numpy.random.RandomState(seed).permutation(n)`; a class takes the first ones that show it, which is
    a uniform draw for each. One image may serve several classes. Only label maps are read, and no more
    than it takes.
    """
    image_names = source.image_names(split)
    drawn: dict[int, list[str]] = {number: [] for number in range(len(source.classes))}
    wanting = set(drawn)
    order = np.random.RandomState(seed).permutation(len(image_names))
    for i in progress.bar(order.tolist(), desc="reference draw", unit="label map", leave=False):
        if not wanting:
            break
        for number in wanting.intersection(source.present(split, image_names[i])):
            drawn[number].append(image_names[i])
            if len(drawn[number]) == count:
                wanting.discard(number)
    return {number: tuple(chosen) for number, chosen in drawn.items()}
