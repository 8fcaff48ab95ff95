"""Read the annotations of a labelling tool: a file, or a folder with the files of a project."""

import json
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from segic_jax.data.annotations import coco, yolo
from segic_jax.data.annotations.paths import list_files_below
from segic_jax.data.annotations.registry import FORMATS, READ, find_format
from segic_jax.data.annotations.types import (
    IGNORED,
    AnnotatedImage,
    Format,
    require_one_case,
    warn_left_out,
)
from segic_jax.data.image_files import read_bytes
from segic_jax.data.images import shorten
from segic_jax.errors import DataError

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
    images = [with_labels(image) for image in images]
    require_one_case((a.label, image.file) for image in images for a in image.annotations)
    return Found(FORMATS[key], images)


def with_labels(image: AnnotatedImage) -> AnnotatedImage:
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


def read_images(path: Path, image: Path | None) -> list[AnnotatedImage]:
    """Return the annotated images of a file that stands in the place of a mask.

    Args:
        image: whose file of YOLO it is; None for an image in memory.

    Raises:
        DataError: the file is missing or damaged, or of no format that is read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: there is no such file.") from error
    if path.suffix.lower() == ".txt":
        read_file = FORMATS["yolo"].read_file
        assert read_file is not None
        return read_file(path, image or Path(path.stem))
    return _read_cached(path, (status.st_size, status.st_mtime_ns))
