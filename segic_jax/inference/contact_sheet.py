"""Render the contact sheet of a run: one HTML page with thumbnails that needs no other file."""

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from jaxtyping import UInt8

from segic_jax.inference.context import Context
from segic_jax.inference.overlay import class_colours, shrink

THUMBNAIL = 480  # longer side in pixels: sharp at twice the size of its card
MAX_CARDS = 1000  # images on the page: a few dozen megabytes


class CardClass(NamedTuple):
    """Hold the line of a card about one class."""

    name: str
    colour: str  # CSS
    present: bool
    presence: float  # 0..1


class Card(NamedTuple):
    """Hold what the page shows of one target."""

    name: str  # of its results
    source: str
    thumbnail: str  # data URI
    width: int
    height: int
    classes: list[CardClass]


def make_card(name: str, coco: dict, overlay: UInt8[np.ndarray, "height width 3"]) -> Card:
    """Make the card of a target from its `Result.coco_file` and its overlay."""
    small = shrink(overlay, THUMBNAIL)
    image = coco["images"][0]
    found = {annotation["category_name"] for annotation in coco["annotations"]}
    colours = _css_colours(len(image["presence"]))
    classes = [
        CardClass(category, colour, category in found, presence)
        for (category, presence), colour in zip(image["presence"].items(), colours, strict=True)
    ]
    return Card(name, image["file_name"], _jpeg_uri(small), small.shape[1], small.shape[0], classes)


def render_page(
    context: Context,
    cards: Sequence[Card],
    coco_files: Sequence[dict],
    skipped: Sequence[str],
    notes: Mapping[str, str],
) -> str:
    """Return the HTML.

    Args:
        cards: of the first targets, in order.
        coco_files: of all targets.
        skipped: a message for each target that cannot be read.
        notes: lines of the footer.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.inference"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["urlencode"] = lambda name: quote(os.fsencode(name))  # names may hold any bytes
    count = Counter(annotation["category_name"] for coco in coco_files for annotation in coco["annotations"])
    totals = [
        {"name": name, "colour": colour, "count": count[name]}
        for name, colour in zip(context.names, _css_colours(len(context.names)), strict=True)
    ]
    references = [
        {"source": reference.source, "preview": _data_uri(reference.preview)}
        for reference in context.references
    ]
    return environment.get_template("contact_sheet.html.j2").render(
        totals=totals,
        references=references,
        cards=cards,
        hidden=len(coco_files) - len(cards),
        total=len(coco_files),
        skipped=skipped,
        notes=notes,
    )


def _css_colours(count: int) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(count)]


def _jpeg_uri(image: np.ndarray) -> str:
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return _data_uri(jpeg.tobytes())


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
