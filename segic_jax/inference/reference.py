"""Keep of a reference image what is shown of it: a small preview, and the masks as they were read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from segic_jax.data import masks
from segic_jax.data.mask_reader import question_share
from segic_jax.errors import DataError
from segic_jax.inference.overlay import Colour, RGBImage, draw_mask, shrink, shrink_mask

PREVIEW = 160  # longer side of the preview of a reference, in pixels
MASK = 480  # longer side of a kept mask, in pixels
NEGATIVE = (200, 30, 30)  # the colour of negatives


@dataclass(frozen=True)
class Mark:
    """Describe an object that is marked on a reference, as it was read."""

    name: str  # of the class; empty for a negative of all classes
    negative: bool
    share: float  # of the image, 0..1
    question: str  # what is doubtful about it; empty if nothing is
    mask: dict[str, Any]  # COCO run lengths, at the size of the image with at most MASK pixels a side

    @property
    def label(self) -> str:
        """Return the class's name, or what the object is a negative of."""
        if not self.negative:
            return self.name
        return f"not {self.name}" if self.name else "negative"

    def __str__(self) -> str:
        """Describe the mark in a few words: "cat, 20.1 % of the image"."""
        return f"{self.label}, {share_text(self.share)}"


@dataclass(frozen=True)
class Reference:
    """Describe an image that examples lie on."""

    source: str  # its path; empty for arrays
    size: tuple[int, int]  # height, width
    preview: bytes  # a JPEG of at most PREVIEW pixels a side
    marks: tuple[Mark, ...]


def share_text(share: float) -> str:
    """Describe a share of an image, 0..1, with as many decimals as it takes: "20.1 % of the image"."""
    decimals = 1 if share >= 0.01 else 2 if share >= 0.0001 else 4
    return f"{100 * share:.{decimals}f} % of the image"


def make_mark(name: str | None, negative: bool, mask: Bool[np.ndarray, "height width"]) -> Mark:
    """Describe the mask of an example of a class; `name` is None for a negative of all classes."""
    scale = min(1, MASK / max(mask.shape))
    size = [max(1, round(side * scale)) for side in mask.shape]
    small = mask if scale == 1 else shrink_mask(mask, size)
    return Mark(name or "", negative, float(mask.mean()), question_share(mask), masks.encode(small))


def make_preview(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return a small JPEG of an image."""
    small = cv2.cvtColor(shrink(image, PREVIEW), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small)[1].tobytes()


def decode_preview(reference: Reference) -> UInt8[np.ndarray, "height width 3"]:
    """Return a reference's preview as an RGB image.

    Raises:
        DataError: its bytes are damaged.
    """
    data = np.frombuffer(reference.preview, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise DataError(f"The preview of {reference.source} is damaged: fit the context again (segic fit).")
    return np.asarray(image)


def draw_marks(image: RGBImage, marks: Sequence[Mark], colours: Mapping[str, Colour]) -> RGBImage:
    """Return an image of a reference, of any size, with the marked objects tinted and outlined.

    Args:
        colours: of the classes; negatives are red and crossed out.
    """
    height, width = image.shape[:2]
    for mark in marks:
        small = masks.decode(mark.mask, *mark.mask["size"]).view(np.uint8)
        mask = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST).view(bool)
        image = draw_mask(image, mask, NEGATIVE if mark.negative else colours.get(mark.name, NEGATIVE))
        if mark.negative and mask.any():
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            cv2.line(image, (x, y + h), (x + w, y), NEGATIVE, max(1, max(height, width) // 80), cv2.LINE_AA)
    return image


def describe_references(references: Sequence[Reference]) -> Iterator[str]:
    """Yield a line about each marked object: "reference: cat, 20.1 % of the image (cat.jpg)"."""
    for reference in references:
        for mark in reference.marks:
            yield f"reference: {mark}" + (f" ({reference.source})" if reference.source else "")
