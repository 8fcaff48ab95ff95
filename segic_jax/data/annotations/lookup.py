"""Find an image and a label in the annotations of a labelling tool, and draw its objects."""

import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool
from PIL import Image

from segic_jax.data.annotations.paths import local_name, without_upload
from segic_jax.data.annotations.project import read_images, with_labels
from segic_jax.data.annotations.types import LISTED, AnnotatedImage, Annotation, list_names, require_one_case
from segic_jax.data.orientation import exif_turn
from segic_jax.errors import DataError, InputWarning


def find_annotations(path: Path, image: Path | None, label: str | None) -> tuple[AnnotatedImage, str]:
    """Return an image's annotations in a file, and the label.

    Args:
        image: its path; None for an image in memory, whose name is not known.
        label: the one to find; None for the only one there is.

    Raises:
        DataError: the image or the label is not in the file, or there are several of them.
    """
    images = read_images(path, image)
    found = with_labels(_find_image(path, images, image))
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
