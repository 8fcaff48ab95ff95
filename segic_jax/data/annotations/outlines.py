"""Turn masks into polygons, simplified as far as an IoU allows.

Each connected region is a polygon. What a polygon cannot hold, such as a region with a large hole, is left to
the format: as run lengths, as a small mask, or as one outline that is cut open.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32

from segic_jax.data.annotations.shapes import CORNERS, fill_polygon

MIN_IOU = 0.985  # of the polygon of a region with the region; with KEPT, 0.98 for a mask
KEPT = 0.995  # share of a mask whose regions are written: specks beyond are left out
TOLERANCES = (2.0, 1.4, 1.0, 0.7, 0.5, 0.0)  # pixels; more for larger regions
LARGE = 200.0  # side of a region from which on the tolerance grows

Points = Float[np.ndarray, "_ 2"]
Mask = Bool[np.ndarray, "height width"]


class Outline(NamedTuple):
    """Hold one connected region of a mask."""

    points: Points | None  # its polygon; None where a polygon is not close enough
    mask: Mask  # the region, inside its box
    left: int
    top: int


def outlines(mask: Mask, rule: str = CORNERS, *, cut_holes: bool = False) -> list[Outline]:
    """Return the regions of a mask, the largest first, each as a polygon with an IoU of MIN_IOU at least.

    Args:
        rule: how the tool fills polygons; see `shapes`.
        cut_holes: connect holes to the outline by a cut of no width, so that each region has a polygon.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")
    needed = KEPT * areas.sum()
    found, written = [], 0
    for region in order:
        if written >= needed:
            break
        written += int(areas[region])
        left, top, width, height = (int(value) for value in statistics[region + 1, :4])
        part = labels[top : top + height, left : left + width] == region + 1
        points = _polygon(part, rule, cut_holes)
        if points is not None:
            points = points + np.array([left, top])
        found.append(Outline(points, part, left, top))
    return found


def _polygon(region: Mask, rule: str, cut_holes: bool) -> Points | None:
    """Return the region's polygon in the coordinates of its box."""
    height, width = region.shape
    padded = np.pad(region, 1).view(np.uint8)
    mode = cv2.RETR_CCOMP if cut_holes else cv2.RETR_EXTERNAL
    if rule == CORNERS:
        loops = _corner_loops(padded)
        loops = loops if cut_holes else loops[:1]
    else:
        contours, _ = cv2.findContours(padded, mode, cv2.CHAIN_APPROX_NONE)
        # OpenCV's contour of a hole runs through the pixels around it.
        loops = [contour[:, 0] for contour in contours]
    loops.sort(key=lambda loop: -abs(_signed_area(loop)))
    scale = max(1.0, np.sqrt(region.sum()) / LARGE)
    for tolerance in TOLERANCES:
        simple = [_simplify(loop, tolerance * scale) for loop in loops]
        points = _join(simple).astype(np.float64) - 1
        if len(np.unique(points, axis=0)) < 3:  # one pixel or a line of them
            return None
        drawn = fill_polygon(points, height, width, rule)
        if (drawn & region).sum() >= MIN_IOU * (drawn | region).sum():
            return points
    return None


def _simplify(loop: Int32[np.ndarray, "_ 2"], tolerance: float) -> Int32[np.ndarray, "_ 2"]:
    simple = cv2.approxPolyDP(loop[:, None], tolerance, True)[:, 0] if tolerance else loop
    return simple if len(simple) >= 3 else loop


def _corner_loops(mask: np.ndarray) -> list[Int32[np.ndarray, "_ 2"]]:
    """Return the loops of corners between inside and outside, without those in the middle of a side.

    Each step keeps the inside on its right; at a corner where two regions touch, they stay connected.
    """
    inside = mask.astype(bool)
    sides = (  # the corners before and after each side of a pixel that has another one beyond
        (inside[1:] & ~inside[:-1], (0, 1), (1, 1)),  # upper sides, to the right
        (inside[:-1] & ~inside[1:], (1, 1), (0, 1)),  # lower sides, to the left
        (inside[:, 1:] & ~inside[:, :-1], (1, 1), (1, 0)),  # left sides, up
        (inside[:, :-1] & ~inside[:, 1:], (1, 0), (1, 1)),  # right sides, down
    )
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for side, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(side).tolist():
            steps.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    loops = []
    while steps:
        start = next(iter(steps))
        at, before, loop = start, None, []
        while True:
            after = steps[at]
            if len(after) == 1 or before is None:
                step = after.pop()
            else:  # two regions touch: turn left, which joins them
                dx, dy = at[0] - before[0], at[1] - before[1]
                step = after.pop(after.index((at[0] + dy, at[1] - dx)))
            if not after:
                del steps[at]
            if before is None or (step[0] - at[0], step[1] - at[1]) != (at[0] - before[0], at[1] - before[1]):
                loop.append(at)
            before, at = at, step
            if at == start and start not in steps:
                break
        loops.append(np.array(loop, np.int32))
    loops.sort(key=lambda loop: -abs(_signed_area(loop)))
    return loops


def _signed_area(loop: np.ndarray) -> float:
    x, y = loop.astype(np.float64).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _join(loops: list[np.ndarray]) -> np.ndarray:
    """Connect holes to the outer loop, each by a cut to the nearest point and back."""
    joined = loops[0]
    for hole in loops[1:]:
        distances = ((joined[:, None].astype(np.int64) - hole[None]) ** 2).sum(-1)
        outer, inner = np.unravel_index(distances.argmin(), distances.shape)
        if _signed_area(hole) * _signed_area(loops[0]) > 0:
            hole, inner = hole[::-1], len(hole) - 1 - inner
        hole = np.roll(hole, -inner, axis=0)
        joined = np.concatenate([joined[: outer + 1], hole, hole[:1], joined[outer:]])
    return joined
