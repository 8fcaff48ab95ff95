"""Exchange images and marks with the painter, the canvas that page.js draws on."""

import base64
import io
import json
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segic_jax.app.session import Box, NamedImage
from segic_jax.app.uploads import resize_mask
from segic_jax.errors import DataError
from segic_jax.inference.overlay import Mask, RGBImage

BRUSH_COLOUR = (30, 120, 255)  # as in page.js
CANVAS_SIDE = 640  # the canvas's longer side, whatever the image's size
MAX_MARKS = 2_000_000  # characters


def painter_html(image: NamedImage | None, mask: Mask | None = None) -> str:
    """Return the element that hands page.js an image to paint on, and the paint to start from."""
    if image is None:
        return '<div id="draft" hidden></div>'
    canvas = _resize_to_canvas(image.pixels)
    paint = np.zeros((*canvas.shape[:2], 4), np.uint8)
    if mask is not None:
        paint[resize_mask(mask, canvas.shape[:2])] = (*BRUSH_COLOUR, 255)
    image_url, mask_url = _data_url(canvas, ".jpg", "jpeg"), _data_url(paint, ".png", "png")
    return f'<div id="draft" data-image="{image_url}" data-mask="{mask_url}" hidden></div>'


def read_marks(marks: Any, image: NamedImage) -> tuple[Mask | None, Box | None]:
    """Decode what `segicMarks` of page.js returns.

    Args:
        marks: JSON: a mask as a PNG data URL, and a box in the canvas's pixels or null.
        image: the image that was painted on.

    Returns:
        A mask or a box at the image's size, or neither if nothing is marked.

    Raises:
        DataError: the marks are malformed; the page never sends such.
    """
    height, width = image.pixels.shape[:2]
    rows, columns = _resize_to_canvas(image.pixels).shape[:2]
    try:
        if len(marks) > MAX_MARKS:
            raise ValueError("size")
        content = json.loads(marks)
        if content["box"] is not None:
            left, top, right, bottom = (float(value) for value in content["box"])
            return None, (
                left * width / columns,
                top * height / rows,
                right * width / columns,
                bottom * height / rows,
            )
        png = base64.b64decode(content["mask"].removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            if opened.size != (columns, rows):
                raise ValueError("size")
            paint = np.asarray(opened.convert("RGBA"))[..., 3] > 127
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, AttributeError, RecursionError) as error:
        raise DataError("The marks cannot be read; mark the object again.") from error
    return (resize_mask(paint, (height, width)) if paint.any() else None), None


def _resize_to_canvas(image: RGBImage) -> UInt8[np.ndarray, "rows columns 3"]:
    height, width = image.shape[:2]
    scale = CANVAS_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _data_url(pixels: np.ndarray, suffix: str, kind: str) -> str:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return f"data:image/{kind};base64," + base64.b64encode(cv2.imencode(suffix, bgr)[1]).decode()
