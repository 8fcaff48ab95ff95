"""Read the mask of an object from a file, an array or a PIL image; this is the only reader of users' masks.

The rules are in docs/own_images.md, "How a mask is read". A mask that could mean several things is refused,
with the labels or colours to choose from.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8
from PIL import Image

from segic_jax.data.images import open_image, read_bytes, source_path, to_array, upright
from segic_jax.data.soft_masks import HALF, is_soft_edged, shades_of_colour
from segic_jax.errors import DataError, InputWarning

MaskLike = str | Path | Shaped[np.ndarray, "..."] | Image.Image
Label = int | str  # a number of a label map, a colour "#rrggbb", or "alpha"

ALPHA = "alpha"
SMALL, LARGE = 1e-4, 0.95  # shares of the image outside of which a mask is questioned
VOID_COLOUR = 0xE0E0C0  # of PASCAL VOC: borders and objects that are not annotated
VOID_LABELS = (255, 65535)
MAX_CLASS = 32  # 255 is void beside larger regions of labels below this: VOC has 20, Cityscapes 19
MIN_TRANSPARENT = 0.01  # share of an image from which on its transparency may mark an object
MAX_COLOURS = 64  # of a mask; an image of more is a photograph, or was compressed with a loss
LISTED = 8  # labels or colours in a message
NEAR_BLACK = 15  # largest value of a background that is not quite black
NOISE = 12  # largest difference of the channels of grey after a compression with a loss
_LOSSY = ("JPEG", "MPO", "AVIF", "HEIF")
_LABEL_COLOUR = re.compile("#[0-9a-fA-F]{6}")
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


class Regions(NamedTuple):
    """Hold the objects that a mask marks."""

    labels: Integer[np.ndarray, "height width"]  # 0 is no object
    names: Mapping[int, str]  # how the command line names each of the other labels


class _Pixels(NamedTuple):
    """Hold a decoded mask, of which exactly one of `values` and `colours` is set."""

    what: str  # for messages
    values: np.ndarray | None = None  # [height, width], bool or whole numbers
    colours: np.ndarray | None = None  # uint8 [height, width, 3]
    alpha: np.ndarray | None = None  # uint8 [height, width]
    indices: np.ndarray | None = None  # of a palette image, beside its colours
    lossy: bool = False  # compressed with a loss: values are not exact


def read_mask(mask: MaskLike, label: Label | None = None) -> Bool[np.ndarray, "height width"]:
    """Return the object's pixels; none is True where the mask is empty.

    Args:
        label: the object in a mask of several: a number, a colour "#rrggbb", or "alpha" for the opaque part.

    Raises:
        DataError: the mask cannot be read, is of another type or shape, marks several objects and no `label`
            is given, or has no pixel of the `label`.
    """
    pixels = _decode(mask)
    if label is not None:
        return _select(pixels, label)
    regions = _find_regions(pixels)
    if len(regions.names) > 1:
        raise DataError(_several(pixels.what, regions))
    return regions.labels != 0


def read_objects(mask: MaskLike) -> Regions:
    """Return the objects of a mask, of which there may be several, by their numbers.

    Raises:
        DataError: as `read_mask`, or the objects have colours and no numbers.
    """
    pixels = _decode(mask)
    regions = _find_regions(pixels)
    if len(regions.names) > 1 and pixels.indices is None and pixels.values is None:
        if len(regions.names) > MAX_COLOURS:
            raise DataError(_several(pixels.what, regions))
        raise DataError(
            f"{pixels.what} holds several colours: {_shares(regions)}: save a palette or grey image whose "
            "values are the numbers of the objects."
        )
    return regions


def question_share(mask: Bool[np.ndarray, "height width"]) -> str:
    """Return what is suspicious about a mask's share of its image; "" if nothing is."""
    share = mask.mean()
    if share > LARGE:
        return f"covers {100 * share:.1f} % of the image: is it inverted? Mark the object in white."
    if share < SMALL:
        return f"covers only {mask.sum()} of {mask.size} pixels: is it the object?"
    return ""


def _decode(mask: MaskLike) -> _Pixels:
    what = source_path(mask) or "The mask"
    if isinstance(mask, (str, Path)):
        mask = _read_array(mask) if is_array_file(mask) else open_image(mask)
    if isinstance(mask, Image.Image):
        lossy, pages = mask.format in _LOSSY, getattr(mask, "n_frames", 1)
        if pages > 1 and mask.format != "MPO":
            warnings.warn(f"{what} holds {pages} images; the first is read.", InputWarning, stacklevel=2)
        mask = upright(mask, what)
        if mask.mode not in _GREY_MODES:
            alpha = np.asarray(mask.convert("RGBA").getchannel("A")) if mask.has_transparency_data else None
            indices = np.asarray(mask) if mask.mode == "P" else None
            return _Pixels(what, None, np.asarray(mask.convert("RGB")), alpha, indices, lossy)
        return _Pixels(what, _whole_numbers(np.asarray(mask), what), lossy=lossy)
    return _decode_array(to_array(mask, what), what)


def is_array_file(path: Path | str) -> bool:
    """Return whether a path is that of a NumPy file, .npy."""
    return Path(path).suffix.lower() == ".npy"


def _read_array(path: Path | str) -> np.ndarray:
    read_bytes(path)  # which says why it cannot be read
    try:
        return np.lib.format.open_memmap(
            path, mode="r"
        )  # refuses objects, and more numbers than the file has
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged, or no array of numbers: save it again with np.save.") from error


def _decode_array(array: np.ndarray, what: str) -> _Pixels:
    """Take [h, w], [h, w, 1], [1, h, w], and [h, w, 3 or 4] for colours, of any type of number."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    kind = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{what} must be true and false or numbers, [height, width], not {kind}.")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        if array.dtype == bool:
            array = array * np.uint8(255)
        elif array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
            array = np.rint(255 * array)
        if not (array.min() >= 0 and array.max() <= 255):  # which NaN fails as well
            raise DataError(f"{what} must have colours of 0 to 255, not {kind} from {array.min():g}.")
        array = array.astype(np.uint8)
        return _Pixels(what, None, array[..., :3], array[..., 3] if array.shape[2] == 4 else None)
    if array.ndim != 2:
        raise DataError(f"{what} must be the mask of one object, [height, width], not {kind}.")
    return _Pixels(what, _whole_numbers(array, what))


def _whole_numbers(values: np.ndarray, what: str) -> np.ndarray:
    """Return bool and whole numbers as they are; cut probabilities at half, and round grey values."""
    if values.dtype.kind != "f":
        return values
    low, high = values.min(), values.max()
    if not (low >= 0 and np.isfinite(high)):
        raise DataError(f"{what} has values from {low:g} to {high:g}: give probabilities of 0 to 1, or bool.")
    if (values == np.rint(values)).all():
        return values.astype(np.int64)
    if high <= 1:
        steps = np.unique(values)
        if len(steps) < 16 and not is_soft_edged(np.rint(255 * values).astype(np.uint8)):
            listed = ", ".join(f"{step:.3g}" for step in steps[:8])
            raise DataError(
                f"{what} holds the values {listed}, which are no soft edge: give the mask of one object, "
                "such as mask == value."
            )
        return values > 0.5
    if high <= 255:
        return np.rint(values).astype(np.uint8)
    raise DataError(f"{what} has fractions up to {high:g}: give probabilities of 0 to 1, or bool.")


def _find_regions(pixels: _Pixels) -> Regions:
    if pixels.values is not None:
        return _regions_of_values(pixels.values, pixels)
    assert pixels.colours is not None
    opaque = None if pixels.alpha is None else pixels.alpha > HALF
    if opaque is None or (~opaque).mean() <= MIN_TRANSPARENT or not opaque.any():
        return _regions_of_colours(pixels, opaque)
    cut_out = Regions(opaque.astype(np.uint8), {1: ALPHA})
    colours = len(np.unique(colour_codes(pixels.colours[opaque])))
    if colours == 1 or colours > MAX_COLOURS:  # the outline of an object, or a photograph of it
        return cut_out
    regions = _regions_of_colours(pixels, opaque)
    raise DataError(
        f"{pixels.what} marks something by transparency ({100 * opaque.mean():.1f} % of it is opaque) and by "
        f"colour, {_shares(regions)}: choose one with label= "
        f"(on the command line: {pixels.what}:{ALPHA} or {pixels.what}:{next(iter(regions.names.values()))})."
    )


def _regions_of_values(values: np.ndarray, pixels: _Pixels) -> Regions:
    """Read a label map, or black and white with soft edges."""
    if values.dtype == bool:
        return Regions(values.astype(np.uint8), {1: "1"} if values.any() else {})
    levels, counts = np.unique(values, return_counts=True)
    labels = levels[levels != 0]
    if pixels.lossy or len(levels) > 2:  # two numbers without 0 are two labels, however dark the first is
        grey = _as_grey(values, levels)
        if grey is not None and is_soft_edged(grey, lossy=pixels.lossy):
            return Regions((grey > HALF).astype(np.uint8), {1: "1"})
    if pixels.lossy:
        if levels[-1] <= NEAR_BLACK:  # black
            return Regions(np.zeros(values.shape, np.uint8), {})
        raise DataError(_compressed(pixels.what))
    if (
        len(labels) > 1
        and levels[0] == 0
        and labels[-1] in VOID_LABELS
        and labels[-2] < MAX_CLASS
        and counts[1:-1].sum() > counts[-1]
    ):
        _warn_void(pixels.what, str(labels[-1]), counts[-1] / values.size)
        labels = labels[:-1]
        values = np.where(values == levels[-1], 0, values)
    return Regions(values, {int(label): str(label) for label in labels})


def _as_grey(values: np.ndarray, levels: np.ndarray) -> UInt8[np.ndarray, "height width"] | None:
    """Return 8 bits a pixel, or None where the values are no brightness."""
    if levels[0] < 0 or levels[-1] > 65535:
        return None
    return (values >> 8 if levels[-1] > 255 else values).astype(np.uint8)


def _regions_of_colours(pixels: _Pixels, opaque: np.ndarray | None) -> Regions:
    """Read an object in colour on black; the void colour and transparent pixels are no object."""
    colours = pixels.colours
    assert colours is not None
    colours = colours if opaque is None else colours * opaque[..., None]
    if pixels.indices is None and np.ptp(colours, axis=-1).max() <= (NOISE if pixels.lossy else 0):
        return _regions_of_values(colours.max(-1), pixels)
    if pixels.lossy:
        raise DataError(_compressed(pixels.what))
    codes, indices = colour_codes(colours), pixels.indices
    by_index: dict[int, int] = {}  # colours of a palette image
    if indices is not None:
        by_index = {int(i): int(codes[indices == i][0]) for i in np.unique(indices)}
        distinct = len(set(by_index.values()))
        if distinct == 1 < len(by_index) or all(code == i * 0x10101 for i, code in by_index.items()):
            return _regions_of_values(indices, pixels)  # a palette that says nothing, or grey
        if distinct < len(by_index):
            raise DataError(_several(pixels.what, Regions(indices, {i: str(i) for i in by_index})))
    present, counts = np.unique(codes, return_counts=True)
    if (shades := shades_of_colour(codes, present)) is not None:
        return Regions((shades > HALF).astype(np.uint8), {1: "1"})
    dark = [code for code in present.tolist() if max(_channels(code)) <= NEAR_BLACK]
    background = 0 if 0 in dark else None
    if len(dark) == 1 and len(set(_channels(dark[0]))) == 1:  # grey that is nearly black
        (background,) = dark
    order = np.argsort(-counts, kind="stable")
    objects = [code for code in present[order].tolist() if code != background]
    if VOID_COLOUR in objects and len(objects) > 1:
        objects.remove(VOID_COLOUR)
        _warn_void(pixels.what, _hex(VOID_COLOUR), (codes == VOID_COLOUR).mean())
    if indices is None:
        labels = np.zeros(codes.shape, np.int32)
        for number, code in enumerate(objects[:LISTED], 1):
            labels[codes == code] = number
        return Regions(labels, {number: _hex(code) for number, code in enumerate(objects, 1)})
    marked = np.isin(codes, objects)
    names = {i: str(i) for i, code in by_index.items() if code in objects}
    if 0 not in names:
        return Regions(np.where(marked, indices, 0), names)
    if len(names) == 1:
        return Regions(marked.astype(np.uint8), {1: "0"})
    raise DataError(_several(pixels.what, Regions(indices, {i: str(i) for i in by_index})))


def _select(pixels: _Pixels, label: Label) -> np.ndarray:
    """Return the pixels of a number, a colour or the opaque part."""
    if label == ALPHA:
        if pixels.alpha is None:
            raise DataError(f"{pixels.what} has no transparency: leave {ALPHA} out.")
        return pixels.alpha > HALF
    if pixels.lossy:
        raise DataError(
            f"{pixels.what} is compressed with a loss, so that its labels are not exact: save it as PNG."
        )
    if isinstance(label, str):
        if not _LABEL_COLOUR.fullmatch(label):
            raise DataError(f"{pixels.what}: label is a number, a colour such as #307020, or {ALPHA}.")
        if pixels.colours is None:
            raise DataError(f"{pixels.what} has numbers, no colours: choose one of {_listed(pixels)}.")
        mask = colour_codes(pixels.colours) == int(label[1:], 16)
    else:
        values = pixels.values if pixels.values is not None else pixels.indices
        if values is None:
            assert pixels.colours is not None
            if np.ptp(pixels.colours, axis=-1).any():
                raise DataError(f"{pixels.what} has colours, no numbers: choose one of {_listed(pixels)}.")
            values = pixels.colours[..., 0]
        mask = values.astype(np.int64) == label
    if not mask.any():
        what = f"colour {label}" if isinstance(label, str) else f"label {label}"
        raise DataError(f"{pixels.what} has no pixel of the {what}; it has {_listed(pixels)}.")
    return mask


def colour_codes(colours: UInt8[np.ndarray, "... 3"]) -> Integer[np.ndarray, "..."]:
    """Return each colour as the number 0xrrggbb."""
    return (
        (colours[..., 0].astype(np.int32) << 16) | (colours[..., 1].astype(np.int32) << 8) | colours[..., 2]
    )


def _channels(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


def _hex(code: int) -> str:
    return f"#{code:06x}"


def _warn_void(what: str, name: str, share: float) -> None:
    warnings.warn(
        f"{what}: {name} ({100 * share:.1f} % of the image) is ignored as void.", InputWarning, stacklevel=2
    )


def _compressed(what: str) -> str:
    return f"{what} is compressed with a loss and is not one white object on black: save it as PNG."


def _several(what: str, regions: Regions) -> str:
    first = next(iter(regions.names.values()))
    if first.startswith("#") and len(regions.names) > MAX_COLOURS:
        return f"{what} holds {len(regions.names)} colours, which mark no object: paint it white on black."
    kind = "colours" if first.startswith("#") else "labels"
    example = f'"{first}"' if kind == "colours" else first
    return (
        f"{what} holds several {kind}, {_shares(regions)}: choose one with label={example} "
        f"(on the command line: {what.replace('The mask', 'MASK')}:{first})."
    )


def _shares(regions: Regions) -> str:
    """List what the mask holds, with the share of the image of each."""
    items = [
        f"{name} ({100 * (regions.labels == label).mean():.2g} %)"
        for label, name in list(regions.names.items())[:LISTED]
    ]
    rest = len(regions.names) - len(items)
    return ", ".join(items) + (f" and {rest} more" if rest else "")


def _listed(pixels: _Pixels) -> str:
    """List the labels or colours that a mask has, of which one can be chosen."""
    if (values := pixels.values if pixels.values is not None else pixels.indices) is not None:
        names = [str(int(value)) for value in np.unique(values)]
    else:
        codes, counts = np.unique(colour_codes(pixels.colours), return_counts=True)
        names = [_hex(code) for code in codes[np.argsort(-counts, kind="stable")].tolist()]
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
