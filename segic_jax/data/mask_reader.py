"""Read the mask of an object from a file, an array or a PIL image; this is the only reader of users' masks.

The rules are in docs/own_images.md, "How a mask is read". A mask that could mean several things is refused,
with the labels or colours to choose from.
"""

import re
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from segic_jax.data.mask_pixels import MaskLike, MaskPixels, decode_mask
from segic_jax.data.soft_masks import HALF, is_soft_edged, shades_of_colour
from segic_jax.errors import DataError, InputWarning

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
_LABEL_COLOUR = re.compile("#[0-9a-fA-F]{6}")


class Regions(NamedTuple):
    """Hold the objects that a mask marks."""

    labels: Integer[np.ndarray, "height width"]  # 0 is no object
    names: Mapping[int, str]  # how the command line names each of the other labels


def read_mask(mask: MaskLike, label: Label | None = None) -> Bool[np.ndarray, "height width"]:
    """Return the object's pixels; none is True where the mask is empty.

    Args:
        label: the object in a mask of several: a number, a colour "#rrggbb", or "alpha" for the opaque part.

    Raises:
        DataError: the mask cannot be read, is of another type or shape, marks several objects and no `label`
            is given, or has no pixel of the `label`.
    """
    pixels = decode_mask(mask)
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
    pixels = decode_mask(mask)
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


def _find_regions(pixels: MaskPixels) -> Regions:
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


def _regions_of_values(values: np.ndarray, pixels: MaskPixels) -> Regions:
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


def _regions_of_colours(pixels: MaskPixels, opaque: np.ndarray | None) -> Regions:
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


def _select(pixels: MaskPixels, label: Label) -> np.ndarray:
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


def _listed(pixels: MaskPixels) -> str:
    """List the labels or colours that a mask has, of which one can be chosen."""
    if (values := pixels.values if pixels.values is not None else pixels.indices) is not None:
        names = [str(int(value)) for value in np.unique(values)]
    else:
        codes, counts = np.unique(colour_codes(pixels.colours), return_counts=True)
        names = [_hex(code) for code in codes[np.argsort(-counts, kind="stable")].tolist()]
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
