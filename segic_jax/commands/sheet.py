"""The contact sheet of a run: one page that needs nothing from elsewhere, and can be mailed."""

import base64
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from jaxtyping import UInt8

from segic_jax.inference.context import Context
from segic_jax.inference.overlay import class_colours, shrink

SIDE = 480  # longer side of an image on the page: sharp at twice the pixels of its card
MOST = 1000  # images on the page: a few dozen megabytes


class Found(NamedTuple):
    """One class on one target."""

    name: str
    colour: str  # CSS
    present: bool
    presence: float  # 0..1


class Card(NamedTuple):
    """One target on the page."""

    name: str  # of its results
    source: str
    picture: str  # data URI
    width: int
    height: int
    found: list[Found]


def card(name: str, coco: dict, drawn: UInt8[np.ndarray, "height width 3"]) -> Card:
    """From a target's `Result.coco_file` and its overlay."""
    small = shrink(drawn, SIDE)
    image = coco["images"][0]
    masks = {one["category_name"]: one for one in coco["annotations"]}
    return Card(
        name,
        image["file_name"],
        _jpeg_uri(small),
        small.shape[1],
        small.shape[0],
        [
            Found(one, colour, one in masks, presence)
            for (one, presence), colour in zip(
                image["presence"].items(), _css(len(image["presence"])), strict=True
            )
        ],
    )


def page(
    context: Context,
    cards: Sequence[Card],
    done: Sequence[dict],
    refused: Sequence[str],
    made: dict[str, str],
) -> str:
    """The HTML.

    Args:
        cards: of the first targets, in order.
        done: COCO files of all targets.
        refused: a sentence for each target that could not be read.
        made: how the run was made, as lines of a table.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segic_jax.commands"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["urlencode"] = lambda name: quote(os.fsencode(name))  # names may hold any bytes
    counts = Counter(one["category_name"] for coco in done for one in coco["annotations"])
    totals = [
        {"name": name, "colour": colour, "count": counts[name]}
        for i, (name, colour) in enumerate(zip(context.names, _css(len(context.names)), strict=True))
    ]
    references = [
        {"source": one.source, "picture": "data:image/jpeg;base64," + base64.b64encode(one.preview).decode()}
        for one in context.references
    ]
    return environment.get_template("sheet.html.j2").render(
        totals=totals,
        references=references,
        cards=cards,
        left_out=len(done) - len(cards),
        total=len(done),
        refused=refused,
        made=made,
    )


def _css(count: int) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(count)]


def _jpeg_uri(image: np.ndarray) -> str:
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
