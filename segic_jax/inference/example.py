"""Read examples: an image with an object marked on it, in any form.

An image is a path, an RGB array or a PIL image. The object is marked by a mask (path, array or PIL image), a
box, a polygon or COCO run lengths.
"""

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from segic_jax.data import masks
from segic_jax.data.annotations import lookup, project, voc
from segic_jax.data.images import ImageLike, as_image, shorten, source_path
from segic_jax.data.mask_reader import ALPHA, Label, MaskLike, question_share, read_mask
from segic_jax.data.orientation import exif_turn
from segic_jax.errors import DataError, InputWarning
from segic_jax.inference.overlay import draw_object

MAX_POLYGON_NUMBERS = 1_000_000


@dataclass(frozen=True, eq=False)
class Example:
    """Mark one object on one image, by exactly one of `mask`, `box`, `polygon` and `rle`.

    Args:
        image: a path, a uint8 RGB array [height, width, 3], or a PIL image. EXIF orientation is applied,
            alpha is ignored.
        mask: of the image's size, as a file, an array or a PIL image: true and false, probabilities, black
            and white, one label or one colour on black, or an object cut out by transparency. The rules are
            in docs/own_images.md, "How a mask is read". Or a file of a labelling tool, of which `label`
            chooses the objects: docs/labelling_tools.md has the formats.
        box: (x0, y0, x1, y1) in pixels; everything inside counts as the object.
        polygon: [[x, y], ...] in pixels, or several polygons.
        rle: COCO run lengths, {"size": [height, width], "counts": ...}, compressed or not.
        label: the object in a mask of several: a number, a colour "#rrggbb", "alpha", the opaque part, or a
            name, where the mask is a file of a labelling tool or has a labelmap.txt.
        name: the class. Examples with the same name are shots of one class.
        negative: the object looks similar to the class but does not belong to it. With `name=None` it is a
            negative of all classes.

    Raises:
        DataError: the arguments contradict each other.
    """

    image: ImageLike
    mask: MaskLike | None = None
    _: KW_ONLY
    box: Sequence | np.ndarray | None = None
    polygon: Sequence | np.ndarray | None = None
    rle: dict | None = None
    label: Label | None = None
    name: str | None = "object"
    negative: bool = False

    def __post_init__(self):
        marks = [key for key in ("mask", "box", "polygon", "rle") if getattr(self, key) is not None]
        if len(marks) != 1:
            raise DataError(
                f"{self.source}: an example takes exactly one of mask, box, polygon and rle; "
                f"it has {', '.join(marks) or 'none'}."
            )
        if self.label is not None and self.mask is None:
            raise DataError(f"{self.source}: label picks a value of a mask, but there is no mask.")
        if self.label is not None and not isinstance(self.label, Integral | str):
            raise DataError(
                f"{self.source}: label must be the number, colour or name of the object in its mask."
            )
        if self.name is None and not self.negative:
            raise DataError(f"{self.source}: only a negative example may have no name.")
        if self.name is not None and (not isinstance(self.name, str) or not self.name.strip()):
            raise DataError(f"{self.source}: the name of a class must be a string that is not empty.")

    @property
    def source(self) -> str:
        """Return the image's path, or what messages call it without one."""
        return source_path(self.image) or "The example"

    def object_mask(self, image: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"]:
        """Return the object's pixels on the image that `as_image` has read; at least one is True.

        A mask of nearly the whole image, or of nearly nothing, gives an InputWarning.

        Raises:
            DataError: the mask cannot be read, is empty, marks several objects and no `label` is given, or
                has another size than the image.
        """
        height, width = image.shape[:2]
        if isinstance(self.mask, (str, Path)) and Path(self.mask).suffix.lower() in project.SUFFIXES:
            mask, what = self._annotated(Path(self.mask), height, width), str(self.mask)
        elif self.mask is not None:
            mask, what = read_mask(self.mask, self._mask_label()), source_path(self.mask) or "The mask"
        else:
            mask, what = self._rasterise(height, width)
        if mask.shape != (height, width):
            rows, columns = mask.shape
            turn = exif_turn(self.image) if mask.shape == (width, height) else ""
            fix = (
                f"{turn}: turn the mask in the same way, or remove the tag"
                if turn
                else "make them the same size"
            )
            raise DataError(
                f"{what} is {columns} x {rows} pixels, its image {width} x {height}"
                f"{', ' if turn else '; '}{fix}."
            )
        if not mask.any():
            raise DataError(f"{what} is empty: it marks no pixel; mark the object in white.")
        if question := question_share(mask):
            warnings.warn(f"{self.source}: {what} {question}", InputWarning, stacklevel=2)
        return mask

    def preview(self, side: int = 640) -> UInt8[np.ndarray, "rows columns 3"]:
        """Return the image with the object tinted and outlined, as it was read: a uint8 RGB array.

        Args:
            side: of the longer side in pixels, at most.

        Raises:
            DataError: as `object_mask`, or the image cannot be read.
        """
        image = as_image(self.image)
        return draw_object(image, self.object_mask(image), side)

    def _annotated(self, file: Path, height: int, width: int) -> np.ndarray:
        """Return the objects of a file of a labelling tool."""
        image = Path(self.image) if isinstance(self.image, (str, Path)) else None
        label = None if self.label is None else str(self.label)
        annotated, label = lookup.find_annotations(file, image, label)
        turned = self.image if isinstance(self.image, Image.Image) else image
        return lookup.draw_label(annotated, label, turned, height, width)

    def _mask_label(self) -> Label | None:
        """Return the label as the mask's number or colour, where it is a name."""
        label = self.label
        if not isinstance(label, str) or label == ALPHA or label.startswith("#"):
            return label
        if not isinstance(self.mask, (str, Path)):
            raise DataError(f"{self.source}: a label by its name, '{label}', needs a mask in a file.")
        return voc.find_label(Path(self.mask), label)

    def _rasterise(self, height: int, width: int) -> tuple[np.ndarray, str]:
        if self.box is not None:
            return _box_mask(self.box, height, width, self.source), "The box"
        what = "polygon" if self.polygon is not None else "rle"
        try:
            segmentation = dict(self.rle or {}) if self.polygon is None else _flat_polygons(self.polygon)
            if isinstance(segmentation, list):
                coordinates = [value for points in segmentation for value in points]
                _require_pixels(coordinates, height, width, f"{self.source}: the polygon")
            return masks.decode(segmentation, height, width), f"The {what}"
        except DataError:
            raise
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.source}: the {what} cannot be used: {shorten(error)}.") from error


def _box_mask(box: Sequence | np.ndarray, height: int, width: int, source: str) -> np.ndarray:
    try:
        x0, y0, x1, y1 = (_to_float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: a box is (x0, y0, x1, y1) in pixels, not {shorten(box)}.") from error
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):  # which NaN fails as well
        raise DataError(
            f"{source}: the box {x0:g} {y0:g} {x1:g} {y1:g} must have x0 < x1 and y0 < y1 and lie inside "
            f"the image of {width} x {height} pixels."
        )
    _require_pixels([x0, y0, x1, y1], height, width, f"{source}: the box")
    mask = np.zeros((height, width), bool)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def _require_pixels(coordinates: Sequence[float], height: int, width: int, what: str) -> None:
    """Raise DataError for coordinates relative to the image's size, as YOLO has them."""
    if all(0 <= value <= 1 for value in coordinates) and not all(map(float.is_integer, coordinates)):
        raise DataError(
            f"{what} has coordinates of 0 to 1, which are no pixels: multiply x by the image's width, "
            f"{width}, and y by its height, {height}."
        )


def _to_float(value: Any) -> float:
    if isinstance(value, complex):  # NumPy would drop the imaginary part with a warning
        raise TypeError("a complex number")
    return float(value)


def _flat_polygons(polygon: Sequence | np.ndarray) -> list[list[float]]:
    """Return one polygon or several, of points or flat, as COCO's [[x, y, x, y, ...], ...]."""
    if isinstance(polygon, np.ndarray):
        if polygon.size > MAX_POLYGON_NUMBERS:  # an image given by mistake would become gigabytes of numbers
            raise ValueError(f"it has {polygon.size} numbers, more than {MAX_POLYGON_NUMBERS}")
        if polygon.ndim == 3 and polygon.shape[1] == 1:  # a contour of OpenCV
            polygon = polygon[:, 0]
        polygon = polygon.tolist()
    if not isinstance(polygon, Sequence):
        raise TypeError("it is not a list of points")
    if len(polygon) == 0:
        raise ValueError("it has no points")
    if not isinstance(polygon[0], Sequence | np.ndarray):
        polygon = [polygon]  # flat
    elif len(polygon[0]) == 2 and not isinstance(polygon[0][0], Sequence | np.ndarray):
        polygon = [polygon]  # points
    flat = []
    for points in polygon:
        values = [_to_float(value) for point in points for value in np.ravel(point)]
        if len(values) < 6:
            raise ValueError("it needs at least three points")
        flat.append(values)
    return flat
