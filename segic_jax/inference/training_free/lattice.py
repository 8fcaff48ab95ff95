"""Filter values of points by a Gaussian over their positions, in any number of dimensions.

This is the permutohedral lattice of Adams, Baek and Davis (2010): values are spread over the corners of the
simplex around each point, blurred along the axes of the lattice, and read at the points again. The result
approximates a Gaussian of standard deviation 1; constant values stay as they are.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array


class _Simplices(NamedTuple):
    """Hold the simplex around each point."""

    origin: Int64[np.ndarray, "points dimensions"]  # a corner, without the last coordinate: the sum is 0
    rank: Int64[np.ndarray, "points dimensions"]  # of each direction, in which the corners follow
    weights: Float64[np.ndarray, "points corners"]  # barycentric


class Lattice:
    """Hold the lattice of a set of points, which filters any values of theirs."""

    def __init__(self, positions: Float[np.ndarray, "points dimensions"]):
        """Arrange the points.

        Args:
            positions: in standard deviations of the Gaussian.
        """
        origin, rank, weights = _simplices(positions.astype(np.float64))
        points, d = origin.shape
        # A vertex is the number whose digits are its coordinates; neighbours have digits as well.
        low, high = origin.min(0) - 2 * (d + 1), origin.max(0) + 2 * (d + 1)
        place = np.cumprod([1, *(high - low + 1)])[:d]
        first = (origin - low) @ place
        codes = np.repeat(first[:, None], d + 1, axis=1)
        for corner in range(d + 1):
            codes[:, corner] += corner * place.sum() - (d + 1) * ((rank > d - corner) @ place)
        self._codes, vertices = np.unique(codes, return_inverse=True)
        starts = np.arange(0, points * (d + 1) + 1, d + 1)
        entries = weights.reshape(-1), vertices.reshape(-1).astype(np.int32), starts
        self._slice = csr_array(entries, shape=(points, len(self._codes)))
        steps = [place.sum() - (d + 1) * part for part in (*place, 0)]
        self._neighbours = [(self._places(self._codes + n), self._places(self._codes - n)) for n in steps]
        self._total = self._filter(np.ones(points))

    def filter(self, values: Float[np.ndarray, " points"]) -> Float64[np.ndarray, " points"]:
        """Return the weighted mean of the values around each point."""
        return self._filter(values) / self._total

    def _filter(self, values: Float[np.ndarray, " points"]) -> Float64[np.ndarray, " points"]:
        # Beyond the last vertex there is one of value 0, which stands for all that are missing.
        blurred = np.append(self._slice.T @ values, 0.0)
        for before, after in self._neighbours:
            blurred[:-1] = 0.5 * blurred[:-1] + 0.25 * (blurred[before] + blurred[after])
        return self._slice @ blurred[:-1]

    def _places(self, codes: Int64[np.ndarray, " vertices"]) -> Int64[np.ndarray, " vertices"]:
        """Return the places of vertices, or the number of vertices for those that do not exist."""
        places = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.where(self._codes[places] == codes, places, len(self._codes))


def _simplices(positions: Float64[np.ndarray, "points dimensions"]) -> _Simplices:
    """Return the simplex around each point."""
    points, d = positions.shape
    axis = np.arange(d)
    # Spreading, blurring and reading together have the variance 2/3 (d + 1)^2 along each axis.
    scaled = positions * ((d + 1) * np.sqrt(2 / 3) / np.sqrt((axis + 1) * (axis + 2)))
    # The coordinates in the plane of d + 1 dimensions whose sum is 0.
    elevated = np.zeros((points, d + 1))
    elevated[:, :d] += np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]
    elevated[:, 1:] -= (axis + 1) * scaled
    # The closest point whose coordinates are multiples of d + 1, and the order of what is left.
    up, down = (round_(elevated / (d + 1)) * (d + 1) for round_ in (np.ceil, np.floor))
    origin = np.where(up - elevated < elevated - down, up, down)
    order = np.argsort(origin - elevated, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(d + 1)[None], axis=1)
    rank += (origin.sum(1) / (d + 1)).astype(np.int64)[:, None]
    back = (d + 1) * ((rank < 0).astype(np.int64) - (rank > d))
    origin, rank = origin + back, rank + back
    left = (elevated - origin) / (d + 1)
    weights = np.zeros((points, d + 2))
    rows = np.arange(points)[:, None]
    weights[rows, d - rank] += left  # a rank occurs once in a row
    weights[rows, d - rank + 1] -= left
    weights[:, 0] += 1 + weights[:, d + 1]
    return _Simplices(origin[:, :d].astype(np.int64), rank[:, :d], weights[:, : d + 1])
