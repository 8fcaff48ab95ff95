"""Render what the page shows: thumbnails, matches, and tables in HTML."""

from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np

from segic_jax.app.session import Session, Shot
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.overlay import AnyImage, Colour, RGBImage, class_colours, draw_mask, heat_map, shrink
from segic_jax.inference.result import Result

THUMBNAIL_SIDE = 320
MAX_MATCHES = 6


def target_thumbnail(session: Session, index: int) -> RGBImage:
    """Render a target, with its masks if it has a result."""
    target = session.targets[index]
    if target.result is None:
        return shrink(target.image.pixels, THUMBNAIL_SIDE)
    return session.styled(target.result).overlay(THUMBNAIL_SIDE)


def example_thumbnail(shot: Shot, colour: Colour) -> RGBImage:
    """Render an example with its mask or box; a negative example is crossed out."""
    pixels = shot.image.pixels
    if shot.mask is not None:
        drawn = draw_mask(pixels, shot.mask, colour)
    else:
        assert shot.box is not None
        drawn = _draw_box(pixels, shot.box, colour)
    if shot.negative:
        height, width = pixels.shape[:2]
        thickness = max(2, max(height, width) // 60)
        cv2.line(drawn, (0, height), (width, 0), (255, 255, 255), 2 * thickness, cv2.LINE_AA)
        cv2.line(drawn, (0, height), (width, 0), (200, 30, 30), thickness, cv2.LINE_AA)
    return drawn


def example_caption(shot: Shot) -> str:
    """Return the class of an example, and the share of its image that is marked."""
    name = f"not {shot.class_name}" if shot.negative else shot.class_name
    if shot.mask is None:
        return name
    return f"{name}, {100 * shot.mask.mean():.1f} %"


def render_matches(
    explanation: Explanation, target: RGBImage, reference_image: Callable[[int], tuple[AnyImage, float]]
) -> tuple[RGBImage, AnyImage]:
    """Render a heat map of the target, and the examples side by side.

    Each number stands for a part of an example, and for all places of the target that match it.

    Args:
        reference_image: as `Session.reference_image`.
    """
    matches = spread_matches(explanation.matches, 0.12 * max(target.shape[:2]))
    grey = target.mean(-1, keepdims=True)
    heat = (0.55 * heat_map(explanation.heat) + 0.45 * grey).astype(np.uint8)
    references = {i: reference_image(i) for i in sorted({match.reference for match in matches})}
    drawn = {i: image.copy() for i, (image, _) in references.items()}
    colours = class_colours(len(matches))
    parts: list[tuple[int, tuple[float, float]]] = []  # reference and point of each number
    for match in matches:
        image, scale = references[match.reference]
        point = (scale * match.point[0], scale * match.point[1])
        diameter = 0.07 * max(image.shape[:2])
        close = (
            reference == match.reference and np.hypot(*np.subtract(point, other)) < diameter
            for reference, other in parts
        )
        number = next((i for i, is_close in enumerate(close) if is_close), len(parts))
        if number == len(parts):
            parts.append((match.reference, point))
            _draw_number(drawn[match.reference], point, number + 1, colours[number])
        _draw_number(heat, match.target, number + 1, colours[number])
    return heat, _side_by_side(list(drawn.values()))


def spread_matches(matches: Sequence[Match], distance: float) -> list[Match]:
    """Return the strongest matches that are at least `distance` apart in the target, MAX_MATCHES at most."""
    chosen: list[Match] = []
    for match in matches:
        if len(chosen) < MAX_MATCHES and all(
            np.hypot(*np.subtract(match.target, other.target)) >= distance for other in chosen
        ):
            chosen.append(match)
    return chosen


def presence_table(result: Result) -> str:
    """Render a table with a row for each class: whether it was found, its presence and its area."""
    rows = []
    for i, (name, colour) in enumerate(zip(result.names, result.colours, strict=True)):
        area = 100 * int(result.areas[i]) / result.image[..., 0].size
        presence, status = 100 * float(result.presence[i]), result.status(i)
        rows.append(
            f'<tr class="{"found" if status == "present" else "absent"}"><th scope="row">'
            f'<span class="swatch" style="background:{to_hex(colour)}"></span>{escape(name)}</th>'
            f"<td>{status}</td>"
            f'<td><span class="bar" aria-hidden="true"><i style="width:{presence:.0f}%"></i></span>'
            f"{presence:.0f} %</td><td>{f'{area:.1f} %' if area else '-'}</td></tr>"
        )
    return (
        '<table class="presence"><thead><tr><th scope="col">Class</th><th scope="col">Status</th>'
        '<th scope="col">Presence</th><th scope="col">Area</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def class_list(session: Session) -> str:
    """Render the classes with their colours, which page.js lets the visitor change, and example counts."""
    rows = []
    for class_name, colour in session.colours.items():
        positives = sum(shot.class_name == class_name and not shot.negative for shot in session.shots)
        negatives = sum(shot.class_name == class_name and shot.negative for shot in session.shots)
        if session.loaded is not None:
            positives += session.loaded.shots.get(class_name, 0)
            negatives += sum(class_name in concept.against for concept in session.loaded.negatives)
        count = f"{positives} example{'s' * (positives != 1)}"
        if negatives:
            count += f", {negatives} negative{'s' * (negatives != 1)}"
        name = escape(class_name)
        rows.append(
            f'<li data-class="{name}"><input type="color" value="{to_hex(colour)}" '
            f'title="Choose a colour" aria-label="Colour of {name}">'
            f"<b>{name}</b><span>{count}</span>"
            f'<button type="button" aria-label="Remove {name}">Remove</button></li>'
        )
    return f'<ul class="classes" aria-label="Classes">{"".join(rows)}</ul>' if rows else ""


def to_hex(colour: Colour) -> str:
    """Return a colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _draw_box(image: RGBImage, box: Sequence[float], colour: Colour) -> RGBImage:
    left, top, right, bottom = (round(value) for value in box)
    thickness = max(2, max(image.shape[:2]) // 160)
    return cv2.rectangle(image.copy(), (left, top), (right - 1, bottom - 1), colour, thickness)


def _draw_number(image: RGBImage, point: tuple[float, float], number: int, colour: Colour) -> None:
    """Draw a numbered disc whose size follows the image's size."""
    radius = max(7, max(image.shape[:2]) // 34)
    centre, scale = (round(point[0]), round(point[1])), radius / 14
    cv2.circle(image, centre, radius + max(1, radius // 7), (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
    thickness = max(1, round(1.6 * scale))
    (width, height), _ = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    corner = (centre[0] - width // 2, centre[1] + height // 2)
    ink = (20, 20, 20) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
    cv2.putText(image, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)


def _side_by_side(images: Sequence[AnyImage]) -> AnyImage:
    """Join images with a gap between them, scaled to one height."""
    height = max(image.shape[0] for image in images)
    scaled = [
        cv2.resize(image, (max(1, round(image.shape[1] * height / image.shape[0])), height))
        for image in images
    ]
    gap = np.full((height, max(2, height // 60), 3), 255, np.uint8)
    return np.concatenate([part for image in scaled for part in (gap, image)][1:], axis=1)
