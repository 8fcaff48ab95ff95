"""What a user shows: an image with an object marked on it, in any form.

An image is a path, an RGB array or a PIL image. The object is a mask (path, array or PIL image), a box,
a polygon or COCO's run lengths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from segic_jax.data import masks
from segic_jax.data.image_files import (
    ENDINGS,
    MAX_PIXELS,
    open_image,
    read_image,
    too_large,
    upright,
)
from segic_jax.errors import DataError

MOST_NUMBERS = 1_000_000  # of a polygon

ImageLike = str | Path | UInt8[np.ndarray, "_ _ 3"] | Image.Image
Mask = str | Path | Bool[np.ndarray, "_ _"] | Integer[np.ndarray, "_ _"] | Image.Image

Targets = ImageLike | Iterable[ImageLike]  # one, a folder, a list, an iterator


@dataclass(frozen=True, eq=False)
class Example:
    """One object on one image. Exactly one of `mask`, `box`, `polygon` and `rle` marks it.

    Args:
        image: a path, a uint8 RGB array [height, width, 3], or a PIL image. EXIF orientation is followed,
            alpha is ignored.
        mask: of the image's size. A bool array; numbers or grey (black and white, or a single label beside
            0); a palette image (its one index beside 0); an image with transparency (its opaque part).
        box: (x0, y0, x1, y1) in pixels; all inside counts as the object.
        polygon: [[x, y], ...] in pixels, or several of them.
        rle: COCO's run lengths, {"size": [height, width], "counts": ...}, compressed or not.
        label: the value of the object in a mask that holds several.
        name: of the class. The same name again is another example of it.
        negative: "not this": something that looks like the class and is none. With `name=None` it speaks to
            all classes.
    """

    image: ImageLike
    mask: Mask | None = None
    _: KW_ONLY
    box: Sequence[float] | None = None
    polygon: Sequence | None = None
    rle: dict | None = None
    label: int | None = None
    name: str | None = "object"
    negative: bool = False

    def __post_init__(self):
        given = [key for key in ("mask", "box", "polygon", "rle") if getattr(self, key) is not None]
        if len(given) != 1:
            raise DataError(
                f"{self.source}: an example takes exactly one of mask, box, polygon and rle; "
                f"it has {', '.join(given) or 'none'}."
            )
        if self.label is not None and self.mask is None:
            raise DataError(f"{self.source}: label picks a value of a mask; there is no mask.")
        if self.label is not None and not isinstance(self.label, Integral):
            raise DataError(f"{self.source}: label is the whole number of the object in its mask.")
        if self.name is None and not self.negative:
            raise DataError(f"{self.source}: only a negative example may go without a name.")
        if self.name is not None and (not isinstance(self.name, str) or not self.name.strip()):
            raise DataError(f"{self.source}: the name of a class must be a text that is not empty.")

    @property
    def source(self) -> str:
        """The image's path, or what stands in for it in messages."""
        return source_of(self.image) or "The example"

    def object_on(self, image: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"]:
        """The object's pixels on the image that `as_image` read; at least one of them is True.

        Raises:
            DataError: a file that cannot be read, an empty mask, one of several labels without `label`, or
                one of another size than its image.
        """
        height, width = image.shape[:2]
        if self.mask is not None:
            mask, what = as_mask(self.mask, self.label), source_of(self.mask) or "The mask"
        else:
            mask, what = self._drawn(height, width)
        if mask.shape != (height, width):
            rows, columns = mask.shape
            raise DataError(
                f"{what} is {columns} x {rows} pixels, its image {width} x {height}; make them the same size."
            )
        if not mask.any():
            raise DataError(f"{what} is empty: it marks no pixel; mark the object in white.")
        return mask

    def _drawn(self, height: int, width: int) -> tuple[np.ndarray, str]:
        if self.box is not None:
            return _box_mask(self.box, height, width, self.source), "The box"
        what = "polygon" if self.polygon is not None else "rle"
        try:
            segmentation = dict(self.rle or {}) if self.polygon is None else _flat(self.polygon)
            return masks.decode(segmentation, height, width), f"The {what}"
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.source}: the {what} cannot be used: {_short(error)}.") from error


def source_of(picture: ImageLike | Mask) -> str | None:
    """The path of what was read from a file."""
    return str(picture) if isinstance(picture, (str, Path)) else None


def list_images(targets: Targets) -> Iterable[ImageLike]:
    """One image, a folder's images by name, or whatever the iterable gives.

    Raises:
        DataError: a folder without images, or nothing of that.
    """
    if isinstance(targets, (str, Path)):
        folder = Path(targets)
        if not folder.is_dir():
            return [targets]
        inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        if not inside:
            raise DataError(f"{folder} holds no image ({', '.join(ENDINGS)}).")
        return inside
    if isinstance(targets, Image.Image) or (isinstance(targets, np.ndarray) and targets.ndim == 3):
        return [targets]
    return require_iterable(targets, "Targets are an image, a folder or a list of images")


def require_iterable(values: Any, what: str) -> Iterable:
    """Raise DataError where they are none."""
    try:
        iter(values)
    except TypeError as error:  # an array without an axis is an instance of Iterable
        raise DataError(f"{what}, not {type(values).__name__}.") from error
    return values


def as_image(picture: ImageLike) -> UInt8[np.ndarray, "height width 3"]:
    """RGB.

    Raises:
        DataError: a file that cannot be read, an array of another type or shape, or too many pixels.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        _require_size(*picture.size)
        picture = _eight_bits(upright(picture, "The image")).convert("RGB")
    array = _array(picture, "An image")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"An image must be uint8 [height, width, 3], not {array.dtype} {list(array.shape)}.")
    _require_size(array.shape[1], array.shape[0])
    return np.ascontiguousarray(array)


def as_mask(mask: Mask, label: int | None = None) -> Bool[np.ndarray, "height width"]:
    """The object's pixels.

    Raises:
        DataError: a file that cannot be read, an array of another type or shape, several labels without
            `label`, or a `label` that is not there.
    """
    what = source_of(mask) or "The mask"
    if isinstance(mask, (str, Path)):
        mask = open_image(mask)
    if isinstance(mask, Image.Image):
        jpeg, palette, mask = mask.format == "JPEG", mask.mode == "P", upright(mask, what)
        if label is None and (jpeg or mask.mode not in _LABEL_MODES):
            return _marked(mask, what)
    else:
        palette = False
    values = _array(mask, what)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise DataError(
            f"{what} must be true and false, or whole numbers, [height, width], "
            f"not {values.dtype} {list(values.shape)}."
        )
    if label is not None:
        return _chosen(values, label, what)
    return values if values.dtype == bool else _one_object(values, palette, what)


_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")


def _array(values: object, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, tensors elsewhere
        raise DataError(f"{what} cannot be made an array: {_short(error)}.") from error


def _short(value: object) -> str:
    return " ".join(str(value).split())[:80]


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(too_large("An image", width, height))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow would clip 16 bits at 255 instead of scaling them."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    return picture


def _marked(mask: Image.Image, what: str) -> Bool[np.ndarray, "height width"]:
    """The opaque part of an image with transparency, else what is bright in one colour."""
    if mask.has_transparency_data:
        alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha > 127
    colours = np.asarray(mask.convert("RGB"))
    return _one_colour(colours, colours.max(-1) > 127, what)


def _chosen(values: np.ndarray, label: int, what: str) -> np.ndarray:
    values = values.astype(np.uint8) if values.dtype == bool else values  # bool takes no number of any size
    mask = values == label
    if not mask.any():
        raise DataError(f"{what} has no pixel of the label {label}; it has {_listed(np.unique(values))}.")
    return mask


def _one_object(values: np.ndarray, palette: bool, what: str) -> np.ndarray:
    """A single label beside 0, or black and white with soft edges."""
    there, counts = np.unique(values, return_counts=True)
    counts, there = counts[there != 0], there[there != 0]
    if len(there) <= 1:
        return values != 0
    if not palette and there[0] > 0:
        grey = there >> 8 if there[-1] > 255 else there
        middle = (grey > 31) & (grey < 224)
        soft = counts[middle].sum() < 0.25 * counts.sum() and grey[-1] >= 224
        # One of many steps of a soft edge has few pixels; a label has more.
        label = len(there) < 64 and (counts[grey < 224] > 0.05 * counts.sum()).any()
        if soft and not label:
            return (values >> 8 if there[-1] > 255 else values) > 127
    raise DataError(
        f"{what} holds several labels ({_listed(there)}): choose one with label= (a command: MASK:NUMBER)."
    )


def _one_colour(colours: np.ndarray, mask: np.ndarray, what: str) -> np.ndarray:
    """`mask` again, unless its pixels have clearly different colours: masks of several objects."""
    marked = colours[mask].astype(np.int32)
    if len(marked):
        bright = marked.max(-1, keepdims=True)
        kind = (2 * marked > bright) @ np.array([4, 2, 1])
        shares = np.bincount(kind, minlength=8) / len(marked)
        if (shares > 0.05).sum() > 1 and bright.min() > 0:
            raise DataError(
                f"{what} marks several objects in different colours: save one of them in white, or a map of "
                "numbers and choose one with label= (a command: MASK:NUMBER)."
            )
    return mask


def _box_mask(box: Sequence[float], height: int, width: int, source: str) -> np.ndarray:
    try:
        x0, y0, x1, y1 = (_real(value) for value in box)
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: a box is (x0, y0, x1, y1) in pixels, not {_short(box)}.") from error
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):  # refuses NaN as well
        raise DataError(
            f"{source}: the box {x0:g} {y0:g} {x1:g} {y1:g} must have x0 < x1 and y0 < y1 and lie inside "
            f"the image of {width} x {height} pixels."
        )
    mask = np.zeros((height, width), bool)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask


def _real(value: Any) -> float:
    if isinstance(value, complex):  # NumPy would drop a part, and print a warning
        raise TypeError("a complex number")
    return float(value)


def _flat(polygon: Sequence) -> list[list[float]]:
    """One polygon or several, of points or flat, as COCO's [[x, y, x, y, ...], ...]."""
    if isinstance(polygon, np.ndarray):
        if polygon.size > MOST_NUMBERS:  # an image by mistake would become gigabytes of numbers
            raise ValueError(f"it has {polygon.size} numbers, more than {MOST_NUMBERS}")
        polygon = polygon.tolist()
    if not isinstance(polygon, Sequence):
        raise TypeError("it is no list of points")
    if len(polygon) == 0:
        raise ValueError("it has no points")
    if not isinstance(polygon[0], Sequence | np.ndarray):
        polygon = [polygon]  # flat
    elif len(polygon[0]) == 2 and not isinstance(polygon[0][0], Sequence | np.ndarray):
        polygon = [polygon]  # points
    flat = []
    for one in polygon:
        values = [_real(value) for point in one for value in np.ravel(point)]
        if len(values) < 6:
            raise ValueError("it needs at least three points")
        flat.append(values)
    return flat


def _listed(values: np.ndarray, most: int = 8) -> str:
    shown = ", ".join(map(str, values[:most].tolist()))
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
