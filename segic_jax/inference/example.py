"""Read examples: an image with an object marked on it, in any form.

An image is a path, an RGB array or a PIL image. The object is marked by a mask (path, array or PIL image), a
box, a polygon or COCO run lengths.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from segic_jax.data import masks
from segic_jax.data.images import ImageLike, open_image, shorten, source_path, to_array, upright
from segic_jax.errors import DataError

MAX_POLYGON_NUMBERS = 1_000_000

MaskLike = str | Path | Bool[np.ndarray, "_ _"] | Integer[np.ndarray, "_ _"] | Image.Image


@dataclass(frozen=True, eq=False)
class Example:
    """Mark one object on one image, by exactly one of `mask`, `box`, `polygon` and `rle`.

    Args:
        image: a path, a uint8 RGB array [height, width, 3], or a PIL image. EXIF orientation is applied,
            alpha is ignored.
        mask: of the image's size: a bool array; whole numbers or grey values (black and white, or a single
            label besides 0); a palette image (a single index besides 0); or an image with transparency (its
            opaque part).
        box: (x0, y0, x1, y1) in pixels; everything inside counts as the object.
        polygon: [[x, y], ...] in pixels, or several polygons.
        rle: COCO run lengths, {"size": [height, width], "counts": ...}, compressed or not.
        label: the value of the object in a mask with several labels.
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
    label: int | None = None
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
        if self.label is not None and not isinstance(self.label, Integral):
            raise DataError(f"{self.source}: label must be the whole number of the object in its mask.")
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

        Raises:
            DataError: the mask cannot be read, is empty, has several labels and no `label` is given, or has
                another size than the image.
        """
        height, width = image.shape[:2]
        if self.mask is not None:
            mask, what = as_mask(self.mask, self.label), source_path(self.mask) or "The mask"
        else:
            mask, what = self._rasterise(height, width)
        if mask.shape != (height, width):
            rows, columns = mask.shape
            raise DataError(
                f"{what} is {columns} x {rows} pixels, its image {width} x {height}; make them the same size."
            )
        if not mask.any():
            raise DataError(f"{what} is empty: it marks no pixel; mark the object in white.")
        return mask

    def _rasterise(self, height: int, width: int) -> tuple[np.ndarray, str]:
        if self.box is not None:
            return _box_mask(self.box, height, width, self.source), "The box"
        what = "polygon" if self.polygon is not None else "rle"
        try:
            segmentation = dict(self.rle or {}) if self.polygon is None else _flat_polygons(self.polygon)
            return masks.decode(segmentation, height, width), f"The {what}"
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.source}: the {what} cannot be used: {shorten(error)}.") from error


def as_mask(mask: MaskLike, label: int | None = None) -> Bool[np.ndarray, "height width"]:
    """Return the object's pixels.

    Args:
        label: the value of the object in a mask with several labels.

    Raises:
        DataError: the file cannot be read, the array has another type or shape, the mask has several labels
            and no `label` is given, or no pixel has the `label`.
    """
    what = source_path(mask) or "The mask"
    if isinstance(mask, (str, Path)):
        mask = open_image(mask)
    if isinstance(mask, Image.Image):
        jpeg, palette, mask = mask.format == "JPEG", mask.mode == "P", upright(mask, what)
        if label is None and (jpeg or mask.mode not in _LABEL_MODES):
            return _marked_pixels(mask, what)
    else:
        palette = False
    values = to_array(mask, what)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise DataError(
            f"{what} must be true and false, or whole numbers, [height, width], "
            f"not {values.dtype} {list(values.shape)}."
        )
    if label is not None:
        return _pixels_of_label(values, label, what)
    return values if values.dtype == bool else _single_object(values, palette, what)


_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")


def _marked_pixels(mask: Image.Image, what: str) -> Bool[np.ndarray, "height width"]:
    """Return the opaque part of an image with transparency, or else the bright pixels, all of one colour."""
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha > 127
    colours = np.asarray(mask.convert("RGB"))
    bright = colours.max(-1) > 127
    _require_one_colour(colours[bright].astype(np.int32), what)
    return bright


def _pixels_of_label(values: np.ndarray, label: int, what: str) -> np.ndarray:
    if values.dtype == bool:  # which cannot be compared with a large number
        values = values.astype(np.uint8)
    mask = values == label
    if not mask.any():
        labels = _format_values(np.unique(values))
        raise DataError(f"{what} has no pixel of the label {label}; it has {labels}.")
    return mask


def _single_object(values: np.ndarray, palette: bool, what: str) -> np.ndarray:
    """Return the pixels of a single label besides 0, or of white with soft edges on black."""
    labels, counts = np.unique(values, return_counts=True)
    counts, labels = counts[labels != 0], labels[labels != 0]
    if len(labels) <= 1:
        return values != 0
    if not palette and labels[0] > 0:
        grey = labels >> 8 if labels[-1] > 255 else labels
        middle = (grey > 31) & (grey < 224)
        soft = counts[middle].sum() < 0.25 * counts.sum() and grey[-1] >= 224
        # Each of the many grey levels of a soft edge has few pixels; a label has more.
        labelled = len(labels) < 64 and (counts[grey < 224] > 0.05 * counts.sum()).any()
        if soft and not labelled:
            return (values >> 8 if labels[-1] > 255 else values) > 127
    raise DataError(
        f"{what} holds several labels ({_format_values(labels)}): choose one with label= "
        "(on the command line: MASK:NUMBER)."
    )


def _require_one_colour(colours: np.ndarray, what: str) -> None:
    """Raise DataError if pixels have clearly different colours, as in masks of several objects."""
    if len(colours):
        brightest = colours.max(-1, keepdims=True)
        kind = (2 * colours > brightest) @ np.array([4, 2, 1])
        shares = np.bincount(kind, minlength=8) / len(colours)
        if (shares > 0.05).sum() > 1 and brightest.min() > 0:
            raise DataError(
                f"{what} marks several objects in different colours: save one of them in white, or a map of "
                "numbers and choose one with label= (on the command line: MASK:NUMBER)."
            )


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
    mask = np.zeros((height, width), bool)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def _to_float(value: Any) -> float:
    if isinstance(value, complex):  # NumPy would drop the imaginary part with a warning
        raise TypeError("a complex number")
    return float(value)


def _flat_polygons(polygon: Sequence | np.ndarray) -> list[list[float]]:
    """Return one polygon or several, of points or flat, as COCO's [[x, y, x, y, ...], ...]."""
    if isinstance(polygon, np.ndarray):
        if polygon.size > MAX_POLYGON_NUMBERS:  # an image given by mistake would become gigabytes of numbers
            raise ValueError(f"it has {polygon.size} numbers, more than {MAX_POLYGON_NUMBERS}")
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


def _format_values(values: np.ndarray, limit: int = 8) -> str:
    text = ", ".join(map(str, values[:limit].tolist()))
    return text + (f" and {len(values) - limit} more" if len(values) > limit else "")
