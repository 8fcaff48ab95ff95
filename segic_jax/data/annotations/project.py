"""Read a project of a labelling tool, and find an image and a label in it."""

import json
import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from segic_jax.data.annotations import coco, yolo
from segic_jax.data.annotations.paths import list_files_below, local_name, without_upload
from segic_jax.data.annotations.registry import FORMATS, READ, find_format
from segic_jax.data.annotations.types import (
    IGNORED,
    LISTED,
    AnnotatedImage,
    Annotation,
    Format,
    list_names,
    require_one_case,
    warn_left_out,
)
from segic_jax.data.images import exif_turn, read_bytes, shorten
from segic_jax.errors import DataError, InputWarning

AUTO = "auto"
SUFFIXES = (".json", ".xml", ".txt")  # of files with annotations that stand in the place of a mask
MAX_BYTES = 2 << 30  # of a file

OnError = Callable[[Path, DataError], None]


class Found(NamedTuple):
    """Hold the annotations of a project."""

    format: Format
    images: list[AnnotatedImage]


def read_project(path: Path, name: str = AUTO, on_error: OnError | None = None) -> Found:
    """Read a file of annotations, or all those of a folder.

    Args:
        name: of the format; "auto" recognises it.
        on_error: called with a damaged file of several and its error, and the file is left out; by default
            the error is raised.

    Raises:
        DataError: nothing is found, several formats are, or a file is damaged.
    """
    chosen = None if name == AUTO else find_format(name, READ)
    if path.is_dir():
        found = _read_folder(path, chosen, on_error)
    else:
        item, images = _read_file(path)
        found = {item.name: images} if chosen in (None, item) else {}
    if len(found) > 1:
        counts = ", ".join(f"{key} ({len(images)} images)" for key, images in found.items())
        raise DataError(f"{path} has annotations in several formats, {counts}: choose one with --format.")
    if not found and path.is_dir() and chosen in (None, FORMATS["yolo"]) and yolo.has_labels(path):
        raise DataError(
            f"{path} has text files as YOLO's, but not the names of their classes: add data.yaml, or "
            "classes.txt with a name a line."
        )
    if not found:
        kinds = chosen.title if chosen else ", ".join(FORMATS[key].title for key in READ)
        raise DataError(f"{path} has no annotations of {kinds}: export the project again, and unpack it.")
    key, images = next(iter(found.items()))
    images = [_with_labels(image) for image in images]
    require_one_case((a.label, image.file) for image in images for a in image.annotations)
    return Found(FORMATS[key], images)


def _with_labels(image: AnnotatedImage) -> AnnotatedImage:
    """Leave out the annotations of no class, and with an InputWarning those without a label."""
    unnamed = [f"{annotation.what} has no label" for annotation in image.annotations if not annotation.label]
    warn_left_out(image.file, len(image.annotations), unnamed)
    kept = tuple(a for a in image.annotations if a.label and a.label.lower() not in IGNORED)
    return replace(image, annotations=kept)


def _read_folder(
    folder: Path, chosen: Format | None, on_error: OnError | None
) -> dict[str, list[AnnotatedImage]]:
    """Return the images by format."""
    found: dict[str, list[AnnotatedImage]] = {}
    for item in [chosen] if chosen else FORMATS.values():
        if item.read_folder and (images := item.read_folder(folder)):
            found[item.name] = images
    by_folder = set(found)  # whose files, if it has both, mark the same objects less closely
    files = list_files_below(folder, [".json", ".xml"])
    known = set(files)
    for path in files:
        twin = path.name.replace("person_keypoints_", "instances_")
        if twin != path.name and path.with_name(twin) in known:
            continue  # COCO's two files have the same objects
        try:
            item, content = _recognise(path)
            if item is not None and chosen in (None, item) and item.name not in by_folder:
                found.setdefault(item.name, []).extend(_read_parsed(item, path, content))
        except DataError as error:
            if on_error is None:
                raise
            on_error(path, error)
    return found


def _read_file(path: Path) -> tuple[Format, list[AnnotatedImage]]:
    if zipfile.is_zipfile(path):
        raise DataError(f"{path} is a ZIP archive: unpack it, and give the folder.")
    if path.name in ("data.yaml", "dataset.yaml") or path.suffix in (".yaml", ".yml"):
        return FORMATS["yolo"], _read_folder(path.parent, FORMATS["yolo"], None).get("yolo", [])
    item, content = _recognise(path)
    if coco.is_results(content):
        raise DataError(
            f"{path} is a list of COCO results, which names no image and no class: give the file of "
            "annotations."
        )
    if item is None:
        kinds = ", ".join(FORMATS[key].title for key in READ)
        raise DataError(f"{path} is none of the formats that are read ({kinds}): export it as one of them.")
    return item, _read_parsed(item, path, content)


def _read_parsed(item: Format, path: Path, content: Any) -> list[AnnotatedImage]:
    """Read a parsed file of a format; values of other types than the tool writes are damage."""
    assert item.read is not None
    try:
        return item.read(path, content)
    except (AttributeError, KeyError, IndexError, TypeError, OverflowError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not as {item.title} writes it ({type(error).__name__}: {shorten(error)}): export it "
            "again."
        ) from error


def _recognise(path: Path) -> tuple[Format | None, Any]:
    """Parse a file of JSON or XML, and return its format, if it is one, and its content.

    Raises:
        DataError: it is missing or damaged.
    """
    content = _parse(path)
    suffix = ".xml" if isinstance(content, ET.Element) else ".json"
    for item in FORMATS.values():
        if item.suffix == suffix and item.matches is not None and item.matches(content):
            return item, content
    return None, content


def _parse(path: Path) -> Any:
    data = read_bytes(path)
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES >> 30} GB: split it.")
    try:
        if path.suffix.lower() == ".xml":
            if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
                raise ValueError("it declares entities, which annotations never do")
            return ET.fromstring(data)
        return json.loads(data)
    except (ValueError, ET.ParseError, RecursionError) as error:
        kind = "XML" if path.suffix.lower() == ".xml" else "JSON"
        raise DataError(f"{path} is damaged or not {kind} ({error}): export it again.") from error


@lru_cache(maxsize=4)
def _read_cached(path: Path, stamp: tuple[int, int]) -> list[AnnotatedImage]:
    """Read a file once for all the references that are taken of it; `stamp` is its size and time."""
    return _read_file(path)[1]


def _read_images(path: Path, image: Path | None) -> list[AnnotatedImage]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: there is no such file.") from error
    if path.suffix.lower() == ".txt":
        read_file = FORMATS["yolo"].read_file
        assert read_file is not None
        return read_file(path, image or Path(path.stem))
    return _read_cached(path, (status.st_size, status.st_mtime_ns))


def find_annotations(path: Path, image: Path | None, label: str | None) -> tuple[AnnotatedImage, str]:
    """Return an image's annotations in a file, and the label.

    Args:
        image: its path; None for an image in memory, whose name is not known.
        label: the one to find; None for the only one there is.

    Raises:
        DataError: the image or the label is not in the file, or there are several of them.
    """
    images = _read_images(path, image)
    found = _with_labels(_find_image(path, images, image))
    require_one_case((annotation.label, path) for annotation in found.annotations)
    counts = found.labels
    listed = list_names(f"{name} ({count})" for name, count in sorted(counts.items())) or "none"
    if label is None and len(counts) == 1:
        return found, next(iter(counts))
    if label is None:
        if not counts:
            raise DataError(
                f"{path} has no object on {found.name}: annotate it, or choose another reference."
            )
        raise DataError(
            f"{path} has several labels on {found.name}, {listed}: choose one, as in "
            f"{path}:{next(iter(counts))} (label= in Python)."
        )
    if label not in counts:
        raise DataError(f"{path} has no label '{label}' on {found.name}; its labels are {listed}.")
    return found, label


def _find_image(path: Path, images: Sequence[AnnotatedImage], image: Path | None) -> AnnotatedImage:
    if image is None:
        if len(images) == 1:
            return images[0]
        raise DataError(f"{path} has {len(images)} images: give the reference as a file, by its name.")
    same = images_of_name(images, image)
    if len(same) == 1:
        return same[0]
    if same:
        raise DataError(
            f"{path} has {len(same)} images called {image.name}, "
            f"{list_names((item.name for item in same), 4)}: fit the project as a whole, with segic fit."
        )
    if len(images) == 1 and path.suffix.lower() == ".json" and images[0].file == path:
        warnings.warn(
            f"{path} was made for {images[0].name}, not for {image.name}: is it the right file?",
            InputWarning,
            stacklevel=2,
        )
        return images[0]
    names = list_names((item.name for item in images), LISTED) or "none"
    raise DataError(f"{path} has no image {image.name}; it has {names}.")


def images_of_name(images: Sequence[AnnotatedImage], image: Path) -> list[AnnotatedImage]:
    """Return the images that may be this file: of its name, and of those the ones in its folder."""
    wanted, found = image.name.lower(), []
    for annotated in images:
        name = PurePosixPath(local_name(annotated.name))
        if wanted in (name.name.lower(), without_upload(name.name).lower()):
            found.append((annotated, name.parts))
    there = image.absolute().parts
    deeper = [annotated for annotated, parts in found if parts == there[-len(parts) :]]
    return deeper if len(found) > 1 and deeper else [annotated for annotated, _ in found]


def draw_label(
    annotated: AnnotatedImage, label: str, image: Path | Image.Image | None, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of all objects with a label.

    Args:
        image: for the message about an image that its EXIF tag turns.
        height: of the image as it is read, upright.

    Raises:
        DataError: the image has another size than the annotations were made for, an object cannot be used, or
            none has any pixel.
    """
    _require_size(annotated, image, height, width)
    mask = np.zeros((height, width), bool)
    chosen = [annotation for annotation in annotated.annotations if annotation.label == label]
    empty: list[Annotation] = []
    for annotation in chosen:
        drawn = annotation.draw(height, width)
        mask |= drawn
        if not drawn.any():
            empty.append(annotation)
    if len(empty) == len(chosen):
        raise DataError(f"{chosen[0].what} is empty: it marks no pixel; draw it again, or delete it.")
    if empty:
        listed = list_names((annotation.what for annotation in empty), LISTED)
        warnings.warn(
            f"{len(empty)} of {len(chosen)} annotations mark no pixel and are left out: {listed}.",
            InputWarning,
            stacklevel=2,
        )
    return mask


def _require_size(
    annotated: AnnotatedImage, image: Path | Image.Image | None, height: int, width: int
) -> None:
    what = f"{annotated.file}: {annotated.name}"
    if annotated.bytes is not None and isinstance(image, Path) and image.is_file():
        size = image.stat().st_size
        if size != annotated.bytes:
            warnings.warn(
                f"{what} had {annotated.bytes} bytes when it was annotated, {image} has {size}: is it the "
                "same image, at its original size?",
                InputWarning,
                stacklevel=2,
            )
    if annotated.size is None or annotated.size == (height, width):
        return
    rows, columns = annotated.size
    turn = exif_turn(image) if annotated.size == (width, height) else ""
    fix = (
        f", {turn}: remove the tag, or annotate the image as it is shown upright"
        if turn
        else ": give the image that was annotated, at its original size"
    )
    raise DataError(
        f"{what} was annotated with {columns} x {rows} pixels, the image has {width} x {height}{fix}."
    )
