"""Separate the objects of a class within its mask.

"regions": the connected regions of the mask. "peaks": each region is also split where it is narrow. The
distance to the region's border is a landscape; a peak of it is an object of its own if the way to a higher
peak leads through a valley that is low enough. Each pixel belongs to the peak that the way up ends at.
"""

from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from segic_jax.errors import ConfigError

InstancesFrom = Literal["regions", "peaks"]
DEFAULT_INSTANCES: InstancesFrom = "regions"

MIN_AREA = 0.02  # of the mask's largest region: a smaller part is not an instance of its own
SIDE = 96  # pixels of a region's longer side while it is split
VALLEY = 0.8  # of the lower peak: a valley below this separates two objects
LOWEST_PEAK = 0.5  # of the highest peak of the region


class Instance(NamedTuple):
    """Hold the part of a mask that is one object, inside its bounding box."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 lie just beyond
    inside: Bool[np.ndarray, "rows columns"]

    def rows(self, start: int, stop: int, width: int) -> Bool[np.ndarray, "rows width"]:
        """Return the rows from `start` to before `stop` of the mask of an image."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros((stop - start, width), bool)
        first, last = max(start, y0), min(stop, y1)
        if first < last:
            mask[first - start : last - start, x0:x1] = self.inside[first - y0 : last - y0]
        return mask

    def score(self, logits: Float[np.ndarray, "rows columns"]) -> float:
        """Return the mean probability inside, given the logits in the box."""
        values = np.clip(logits[self.inside].astype(np.float64), -80, 80)
        return float((1 / (1 + np.exp(-values))).mean())


def require_instances(method: str | None) -> None:
    """Raise ConfigError unless this names a method, or is None."""
    if method is not None and method not in get_args(InstancesFrom):
        raise ConfigError(f"instances {method!r} must be {' or '.join(get_args(InstancesFrom))}.")


def split_mask(mask: Bool[np.ndarray, "height width"], method: InstancesFrom) -> list[Instance]:
    """Split a mask into instances, the largest first; those below MIN_AREA of a region are left out."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    least = MIN_AREA * max(statistics[1:, cv2.CC_STAT_AREA], default=0)
    instances = []
    for number in range(1, len(statistics)):
        x, y, w, h, area = statistics[number].tolist()
        if area < least:
            continue
        region = labels[y : y + h, x : x + w] == number
        for part in split_region(region) if method == "peaks" else [region]:
            left, top, columns, rows = cv2.boundingRect(part.view(np.uint8))
            box = (x + left, y + top, x + left + columns, y + top + rows)
            instances.append(Instance(box, part[top : top + rows, left : left + columns]))
    areas = np.array([np.count_nonzero(instance.inside) for instance in instances])
    return [instances[i] for i in np.argsort(-areas, kind="stable") if areas[i] >= least]


def split_region(region: Bool[np.ndarray, "height width"]) -> list[Bool[np.ndarray, "height width"]]:
    """Split one connected region at its narrow places."""
    height, width = region.shape
    scale = min(1, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(region.view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
    padded = np.pad(small, 1)
    distance = cv2.distanceTransform(padded.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    labels = climb(distance)
    if labels.max() < 2:
        return [region]
    # The nearest label for every pixel of the region, also for those that the small one lost.
    _, nearest = cv2.distanceTransformWithLabels(
        (labels == 0).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_zero = np.zeros(nearest.max() + 1, np.int32)
    by_zero[nearest[labels > 0]] = labels[labels > 0]
    filled = by_zero[nearest][1:-1, 1:-1]
    large = cv2.resize(filled.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    return [part for number in range(1, labels.max() + 1) if (part := region & (large == number)).any()]


def climb(landscape: Float[np.ndarray, "rows columns"]) -> Int[np.ndarray, "rows columns"]:
    """Label the basins of a landscape that is 0 at its border and outside the region: 1, 2, ..., and 0 there.

    Pixels are visited from the highest to the lowest. Each joins the basin of its neighbours; where two
    basins meet, they become one unless both of their peaks rise enough above this place.
    """
    columns = landscape.shape[1]
    flat = landscape.ravel()
    order = np.argsort(-flat, kind="stable")
    order = order[: int((flat > 0).sum())].tolist()
    parent: dict[int, int] = {}  # pixel -> a pixel of its basin, which is the peak in the end
    around = [dy * columns + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    highest = float(flat.max())

    def root(pixel: int) -> int:
        while parent[pixel] != pixel:
            parent[pixel] = parent[parent[pixel]]
            pixel = parent[pixel]
        return pixel

    for pixel in order:
        visited = [pixel + step for step in around if pixel + step in parent]
        peaks = sorted({root(other) for other in visited}, key=flat.__getitem__)
        parent[pixel] = root(max(visited, key=flat.__getitem__)) if visited else pixel  # the steepest way up
        for lower, higher in pairwise(peaks):
            if flat[pixel] > VALLEY * flat[lower] or flat[lower] < LOWEST_PEAK * highest:
                parent[lower] = higher
    labels = np.zeros(flat.shape, np.int32)
    numbers: dict[int, int] = {}
    for pixel in order:
        labels[pixel] = numbers.setdefault(root(pixel), len(numbers) + 1)
    return labels.reshape(landscape.shape)
