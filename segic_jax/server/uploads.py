"""Read what a request sends, within the limits; files are written below a folder of the request only."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import UInt8
from starlette.datastructures import UploadFile

from segic_jax.data.images import as_image, image_size, read_image
from segic_jax.errors import DataError, InputError
from segic_jax.inference.annotations import read_examples
from segic_jax.inference.example import Example
from segic_jax.runtime.limits import Limits
from segic_jax.runtime.notices import collect_warnings

MAX_PARTS, MAX_NAME = 6, 200  # folders and characters of a file's name
MAX_CLASS_NAME = 100  # characters


class SavedFile(NamedTuple):
    """Hold an uploaded file: the name that its sender gave it, and where it is."""

    name: str
    path: Path


class References(NamedTuple):
    """Hold the decoded examples of a context, and the names of their images in the order of first use."""

    examples: list[Example]
    sources: list[str]
    warnings: list[str]


def save_files(files: Sequence[UploadFile], folder: Path, limits: Limits) -> list[SavedFile]:
    """Write files into folders of their own, so that equal names are no conflict.

    Raises:
        InputError: a file is empty or too large.
    """
    saved = []
    for number, file in enumerate(files):
        name = Path(*clean_parts(file.filename)).name
        part = folder / str(number)
        part.mkdir(parents=True)
        saved.append(SavedFile(name, _save(file, part / name, limits)))
    return saved


def save_project(files: Sequence[UploadFile], folder: Path, limits: Limits) -> None:
    """Write the files of a project of a labelling tool at their relative paths in a folder.

    Of YAML files only the names of the classes are kept: what else they hold are paths.

    Raises:
        InputError: a file is empty or too large, has an impossible name, or two have the same name.
    """
    for file in files:
        path = folder.joinpath(*clean_parts(file.filename))
        if path.exists() or any(parent.is_file() for parent in path.parents):
            raise InputError(f"{file.filename}: two files have this name: give them different ones.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(file, path, limits)
        if path.suffix.lower() in (".yaml", ".yml"):
            try:
                names = yaml.safe_load(path.read_bytes())["names"]
                path.write_text(yaml.safe_dump({"names": names}), "utf-8")
            except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"{file.filename} has no list of names: export the data set again."
                ) from error


def clean_parts(name: str | None) -> list[str]:
    """Return the folders and the name of an uploaded file.

    Raises:
        InputError: the name is empty, absolute, leads out of its folder, or is too long.
    """
    parts = (name or "").replace("\\", "/").split("/")
    fine = (
        len(name or "") <= MAX_NAME
        and len(parts) <= MAX_PARTS
        and all(part.strip(". ") and not part.startswith(".") and part.isprintable() for part in parts)
        and ":" not in parts[0]
    )
    if not fine:
        raise InputError(
            f"{(name or '')[:80]!r} is no name for a file here: give a relative one of printable characters."
        )
    return parts


def _save(file: UploadFile, path: Path, limits: Limits) -> Path:
    limit = limits.file_megabytes << 20
    if not file.size:
        raise InputError(f"{file.filename} is empty: send the file again.")
    if file.size > limit:
        raise InputError(
            f"{file.filename} has {file.size / 2**20:.0f} MB; the limit is {limits.file_megabytes} MB."
        )
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return path


def count_pixels(files: Sequence[SavedFile], limits: Limits) -> int:
    """Return the pixels of all images together, from their headers.

    Raises:
        InputError: a file is not an image, or there are more pixels than the limit.
    """
    total = 0
    for file in files:
        try:
            width, height = image_size(file.path)
        except DataError as error:
            raise InputError(f"{file.name} is damaged or not an image: get the file again.") from error
        total += width * height
        if total > limits.megapixels * 10**6:
            raise InputError(
                f"{file.name}: the images of a request may have {limits.megapixels} million pixels together: "
                "send fewer or smaller ones."
            )
    return total


def read_images(files: Sequence[SavedFile]) -> tuple[list[UInt8[np.ndarray, "_ _ 3"]], list[str]]:
    """Read images, and return them with what is doubtful about them.

    Raises:
        DataError: one cannot be read.
    """
    with collect_warnings() as doubts:
        images = [_renamed(file, read_image) for file in files]
    return images, [_rename(doubt, files) for doubt in doubts]


def _renamed(file: SavedFile, read):
    try:
        return read(file.path)
    except DataError as error:
        raise DataError(_rename(str(error), [file])) from error


def _rename(sentence: str, files: Sequence[SavedFile]) -> str:
    """Replace paths of this machine by the names that the sender knows."""
    for file in files:
        sentence = sentence.replace(str(file.path), file.name)
    return sentence


def read_references(
    images: Sequence[SavedFile], masks: Sequence[SavedFile], names: Sequence[str], negatives: Sequence[bool]
) -> References:
    """Read pairs of an image and a mask.

    Args:
        names: of the classes: one for all, or one for each pair.

    Raises:
        InputError: the numbers do not fit, or a file cannot be used.
    """
    if len(images) != len(masks):
        raise InputError(
            f"There are {len(images)} images and {len(masks)} masks: send a mask for each image."
        )
    names = list(names) or ["object"]
    negatives = list(negatives) or [False]
    for what, values in (("names", names), ("negative", negatives)):
        if len(values) not in (1, len(images)):
            raise InputError(
                f"{what} is given {len(values)} times for {len(images)} images: give one, or one for each."
            )
    names = names * len(images) if len(names) == 1 else names
    negatives = negatives * len(images) if len(negatives) == 1 else negatives
    try:
        examples = [
            Example(image.path, mask.path, name=name, negative=negative)
            for image, mask, name, negative in zip(images, masks, names, negatives, strict=True)
        ]
    except DataError as error:
        raise DataError(_rename(str(error), images)) from error
    return _decode(examples, [*images, *masks])


def read_project_references(folder: Path, format: str, limits: Limits) -> References:
    """Read the annotations of a project in a folder; images are taken from this folder only.

    Raises:
        InputError: as `read_examples` and `count_pixels`.
    """
    with collect_warnings() as doubts:
        try:
            examples = read_examples(folder, format, within=folder)
        except DataError as error:
            raise DataError(_relative(str(error), folder)) from error
    images = dict.fromkeys(example.image for example in examples if isinstance(example.image, Path))
    count_pixels([SavedFile(path.relative_to(folder).as_posix(), path) for path in images], limits)
    decoded = _decode(examples, [], folder)
    return decoded._replace(warnings=[*(_relative(doubt, folder) for doubt in doubts), *decoded.warnings])


def _relative(sentence: str, folder: Path) -> str:
    return sentence.replace(f"{folder}/", "").replace(str(folder), "The project")


def _decode(
    examples: Sequence[Example], files: Sequence[SavedFile], folder: Path | None = None
) -> References:
    """Read images and masks now, so that every error and warning names the sender's files."""

    def renamed(sentence: str) -> str:
        return _rename(sentence, files) if folder is None else _relative(sentence, folder)

    decoded: list[Example] = []
    read: dict[object, tuple[str, UInt8[np.ndarray, "_ _ 3"]]] = {}
    with collect_warnings() as doubts:
        for example in examples:
            if example.name is not None and len(example.name) > MAX_CLASS_NAME:
                raise InputError(f"The name of a class has at most {MAX_CLASS_NAME} characters.")
            key = example.image if isinstance(example.image, Path) else id(example.image)
            try:
                if key not in read:
                    read[key] = renamed(example.source), as_image(example.image)
                mask = example.object_mask(read[key][1])
            except DataError as error:
                raise DataError(renamed(str(error))) from error
            decoded.append(Example(read[key][1], mask, name=example.name, negative=example.negative))
    return References(decoded, [source for source, _ in read.values()], list(map(renamed, doubts)))
