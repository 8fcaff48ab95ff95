"""Define what annotation files hold, whatever tool wrote them, and how a format is read and written.

A label is the name of a class. Coordinates are pixels, x to the right and y down; (0, 0) is the upper left
corner of the image.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from segic_jax.errors import DataError, InputWarning

LISTED = 5  # annotations or files in a message
IGNORED = ("__ignore__", "_background_", "background", "void", "ignored", "unlabeled")  # labels of no object

Draw = Callable[[int, int], Bool[np.ndarray, "height width"]]


class Annotation(NamedTuple):
    """Hold one annotated object."""

    label: str
    what: str  # how messages name it: "photo.json, shape 3"
    draw: Draw  # (height, width) -> its pixels; raises DataError where it cannot be used


@dataclass(frozen=True)
class AnnotatedImage:
    """Hold the annotations of one image."""

    file: Path  # that holds the annotations
    name: str  # of the image in it, with forward slashes
    annotations: Sequence[Annotation] = ()
    size: tuple[int, int] | None = None  # height and width that the file states
    content: bytes | None = field(default=None, repr=False)  # of the image, where the file holds it
    bytes: int | None = None  # the size of the image's file, where it is stated
    image: Path | None = None  # where the reader knows it already

    @property
    def labels(self) -> dict[str, int]:
        """Return how many annotations each label has."""
        counts: dict[str, int] = {}
        for annotation in self.annotations:
            counts[annotation.label] = counts.get(annotation.label, 0) + 1
        return counts


class Region(NamedTuple):
    """Hold a mask to be written, of one class on one image."""

    label: str
    mask: Bool[np.ndarray, "height width"]
    score: float | None = None


@dataclass(frozen=True)
class LabelledImage:
    """Hold the masks to be written for one image, and where the image is."""

    stem: str  # unique name without an ending
    path: Path
    size: tuple[int, int]  # height, width
    regions: Callable[[], Sequence[Region]]  # decodes them; one for each class at most
    label_map: Callable[[], Integer[np.ndarray, "height width"]]  # 0, or 1 + the place of the label


Write = Callable[[Path, Sequence[str], Sequence[LabelledImage]], Path]


class Format(NamedTuple):
    """Describe a format; `registry.FORMATS` has all of them.

    A file of JSON or XML is read as a whole; formats of many files are found by their folder.
    """

    name: str  # on the command line
    title: str  # in messages
    suffix: str = ""  # of its files: ".json" or ".xml"
    matches: Callable[[Any], bool] | None = None  # whether a parsed file is of this format
    read: Callable[[Path, Any], list[AnnotatedImage]] | None = None  # of a parsed file
    read_folder: Callable[[Path], list[AnnotatedImage]] | None = None  # empty where the folder is of another
    read_file: Callable[[Path, Path], list[AnnotatedImage]] | None = (
        None  # a file without a header; its image
    )
    write: Write | None = None  # (folder, labels, images) -> the file or folder to open


def warn_left_out(file: Path | str, count: int, left_out: Sequence[str]) -> None:
    """Give an InputWarning that counts and names the annotations that are left out; do nothing for none."""
    if left_out:
        more = f"; and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
        warnings.warn(
            f"{file}: {len(left_out)} of {count} annotations are left out: "
            f"{'; '.join(left_out[:LISTED])}{more}.",
            InputWarning,
            stacklevel=3,
        )


def require_one_case(labels: Iterable[tuple[str, Path]]) -> None:
    """Raise DataError for labels that differ only in case or spaces: they are one class, or a slip.

    Args:
        labels: each with a file that has it.
    """
    spelled: dict[str, tuple[str, Path]] = {}
    for label, file in labels:
        folded = " ".join(label.casefold().split())
        first, where = spelled.setdefault(folded, (label, file))
        if first != label:
            raise DataError(
                f"The labels '{first}' ({where}) and '{label}' ({file}) differ only in case or spaces: "
                "give them one spelling."
            )


def list_names(names: Iterable[str], limit: int = 12) -> str:
    """Return names for a message, the first ones of many."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
