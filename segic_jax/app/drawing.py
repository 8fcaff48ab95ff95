"""Images and pieces of HTML that the page shows."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np
from PIL import Image

from segic_jax.app.limits import stretch
from segic_jax.app.session import Box, Picture, Session, Shot
from segic_jax.errors import DataError
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.overlay import Colour, Mask, class_colours, draw_mask, heat_map, shrink
from segic_jax.inference.overlay import RGBImage as Pixels
from segic_jax.inference.result import Result

MARK = (30, 120, 255)  # the brush's colour, as in page.js
PAINTER_SIDE = 640  # every image is painted at this size: large enough to hit, small enough to send
MAX_MARKS = 2_000_000  # characters
THUMBNAIL_SIDE = 320
NUMBERS = 6  # matches that are drawn


def target_thumbnail(session: Session, index: int) -> Pixels:
    """A target, with what was found if it was searched."""
    target = session.targets[index]
    if target.result is None:
        return shrink(target.picture.image, THUMBNAIL_SIDE)
    return session.shown(target.result).overlay(THUMBNAIL_SIDE)


def example_thumbnail(shot: Shot, colour: Colour) -> Pixels:
    """What is marked in an example; a negative one is struck through."""
    image = shot.picture.image
    drawn = boxed(image, shot.box, colour) if shot.mask is None else draw_mask(image, shot.mask, colour)
    if shot.negative:
        height, width = image.shape[:2]
        thickness = max(2, max(height, width) // 60)
        cv2.line(drawn, (0, height), (width, 0), (255, 255, 255), 2 * thickness, cv2.LINE_AA)
        cv2.line(drawn, (0, height), (width, 0), (200, 30, 30), thickness, cv2.LINE_AA)
    return drawn


def boxed(image: Pixels, box: Sequence[float], colour: Colour) -> Pixels:
    """The image with a box."""
    left, top, right, bottom = (round(value) for value in box)
    thickness = max(2, max(image.shape[:2]) // 160)
    return cv2.rectangle(image.copy(), (left, top), (right - 1, bottom - 1), colour, thickness)


def painter_data(picture: Picture | None, mask: Mask | None = None) -> str:
    """The image for page.js to paint on, and the paint that is there already."""
    if picture is None:
        return '<div id="draft" hidden></div>'
    image = _painter_size(picture.image)
    paint = np.zeros((*image.shape[:2], 4), np.uint8)
    if mask is not None:
        paint[stretch(mask, image.shape[:2])] = (*MARK, 255)
    shown, painted = _data_url(image, ".jpg", "jpeg"), _data_url(paint, ".png", "png")
    return f'<div id="draft" data-picture="{shown}" data-mask="{painted}" hidden></div>'


def marked(marks: str, picture: Picture) -> tuple[Mask | None, Box | None]:
    """What page.js's segicMarks gives, at the image's size: a mask, a box, or neither.

    Raises:
        DataError: it is none of that; the page never sends such.
    """
    height, width = picture.image.shape[:2]
    rows, columns = _painter_size(picture.image).shape[:2]
    try:
        if len(marks) > MAX_MARKS:
            raise ValueError("size")
        given = json.loads(marks)
        if given["box"] is not None:
            left, top, right, bottom = (float(value) for value in given["box"])
            return None, (
                left * width / columns,
                top * height / rows,
                right * width / columns,
                bottom * height / rows,
            )
        png = base64.b64decode(given["mask"].removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            if opened.size != (columns, rows):
                raise ValueError("size")
            paint = np.asarray(opened.convert("RGBA"))[..., 3] > 127
    except (ValueError, TypeError, KeyError, OSError, SyntaxError, AttributeError, RecursionError) as error:
        raise DataError("The marks could not be read; mark the thing again.") from error
    return (stretch(paint, (height, width)) if paint.any() else None), None


def matched(
    explanation: Explanation, target: Pixels, reference: Callable[[int], tuple[Pixels, float]]
) -> tuple[Pixels, Pixels]:
    """The target warm where it is alike, and the examples side by side.

    A number stands for a part of an example, and for all places of the target that match it.

    Args:
        reference: as `Session.reference`.
    """
    chosen = apart(explanation.matches, 0.12 * max(target.shape[:2]))
    grey = target.mean(-1, keepdims=True)
    warm = (0.55 * heat_map(explanation.heat) + 0.45 * grey).astype(np.uint8)
    shown = {i: reference(i) for i in sorted({match.reference for match in chosen})}
    drawn = {i: image.copy() for i, (image, _) in shown.items()}
    tints, parts = class_colours(len(chosen)), []
    for match in chosen:
        image, scale = shown[match.reference]
        part = match.reference, (scale * match.point[0], scale * match.point[1])
        wide = 0.07 * max(image.shape[:2])  # a disc's diameter
        number = next((i for i, one in enumerate(parts) if _close(part, one, wide)), len(parts))
        if number == len(parts):
            parts.append(part)
            _numbered(drawn[match.reference], part[1], number + 1, tints[number])
        _numbered(warm, match.target, number + 1, tints[number])
    return warm, _side_by_side(list(drawn.values()))


def _close(one: tuple, other: tuple, distance: float) -> bool:
    """Whether two (reference, point) are one disc."""
    return one[0] == other[0] and np.hypot(*np.subtract(one[1], other[1])) < distance


def apart(matches: Sequence[Match], distance: float) -> list[Match]:
    """The strongest matches that are this far from each other in the target."""
    chosen: list[Match] = []
    for match in matches:
        if len(chosen) < NUMBERS and all(
            np.hypot(*np.subtract(match.target, one.target)) >= distance for one in chosen
        ):
            chosen.append(match)
    return chosen


def presence_table(result: Result) -> str:
    """A row a class: found or absent, how sure, how large."""
    rows = []
    for i, (name, tint) in enumerate(zip(result.names, result.colours, strict=True)):
        present, area = bool(result.present[i]), 100 * int(result.areas[i]) / result.image[..., 0].size
        presence = 100 * float(result.presence[i])
        rows.append(
            f'<tr class="{"present" if present else "absent"}"><th scope="row">{_chip(name, tint)}</th>'
            f"<td>{'found' if present else 'absent'}</td>"
            f'<td><span class="bar" aria-hidden="true"><i style="width:{presence:.0f}%"></i></span>'
            f"{presence:.0f} %</td><td>{f'{area:.1f} %' if area else '-'}</td></tr>"
        )
    return (
        '<table class="presence"><thead><tr><th scope="col">class</th><th scope="col">in the image?</th>'
        '<th scope="col">presence</th><th scope="col">area</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def legend(session: Session) -> str:
    """The classes with their colours, to be changed by page.js, and how many examples each has."""
    rows = []
    for name, tint in session.colours.items():
        shown = sum(shot.name == name and not shot.negative for shot in session.shots)
        denied = sum(shot.name == name and shot.negative for shot in session.shots)
        if session.loaded is not None:
            shown += session.loaded.shots.get(name, 0)
            denied += sum(name in one.against for one in session.loaded.negatives)
        count = f"{shown} example{'s' * (shown != 1)}" + (f", {denied} of what it is not" if denied else "")
        known = escape(name)
        rows.append(
            f'<li data-class="{known}">'
            f'<input type="color" value="{css(tint)}" title="Choose a colour" aria-label="Colour of {known}">'
            f"<b>{known}</b><span>{count}</span>"
            f'<button type="button" aria-label="Remove {known}">Remove</button></li>'
        )
    return f'<ul class="legend" aria-label="Classes">{"".join(rows)}</ul>' if rows else ""


def css(colour: Colour) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _chip(name: str, tint: Colour) -> str:
    return f'<span class="swatch" style="background:{css(tint)}"></span>{escape(name)}'


def _painter_size(image: Pixels) -> Pixels:
    height, width = image.shape[:2]
    scale = PAINTER_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _data_url(pixels: np.ndarray, ending: str, kind: str) -> str:
    swapped = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return f"data:image/{kind};base64," + base64.b64encode(cv2.imencode(ending, swapped)[1]).decode()


def _numbered(image: Pixels, point: tuple[float, float], number: int, tint: Colour) -> None:
    """Draw a numbered disc, as large as the image wants it."""
    radius = max(7, max(image.shape[:2]) // 34)
    at, scale = (round(point[0]), round(point[1])), radius / 14
    cv2.circle(image, at, radius + max(1, radius // 7), (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, at, radius, tint, -1, cv2.LINE_AA)
    thickness = max(1, round(1.6 * scale))
    (width, height), _ = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    corner = (at[0] - width // 2, at[1] + height // 2)
    ink = (20, 20, 20) if np.dot(tint, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
    cv2.putText(image, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)


def _side_by_side(images: Sequence[Pixels]) -> Pixels:
    """Scaled to one height."""
    height = max(image.shape[0] for image in images)
    scaled = [
        cv2.resize(image, (max(1, round(image.shape[1] * height / image.shape[0])), height))
        for image in images
    ]
    gap = np.full((height, max(2, height // 60), 3), 255, np.uint8)
    return np.concatenate([part for image in scaled for part in (gap, image)][1:], axis=1)
