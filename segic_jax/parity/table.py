"""One row for each array: how far the port's is from the official one.

A `Checker` belongs to one file of goldens; the replays hand it what the production code computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

FEATURES = 1e-4  # features, prompts, logits
LOSSES = 1e-6
IMAGES = 2e-3  # resized images, 0..255: torch computes the source coordinates in float32


class MissingArray(Exception):
    """A file lacks an input, so that the rest of it cannot be replayed; the row is in the table."""


@dataclass(frozen=True)
class Row:
    """The verdict about one array."""

    file: str
    array: str
    max_abs_error: float  # NaN: nothing to compare, the array is missing or of another shape
    tolerance: float
    passed: bool

    def to_json(self) -> dict:
        """With null for what JSON has no number for."""
        error = self.max_abs_error
        return {
            "file": self.file,
            "array": self.array,
            "max_abs_error": error if np.isfinite(error) else None,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


class Checker:
    """The rows of one file, and which of its arrays were read."""

    def __init__(self, file: str, arrays: Mapping[str, np.ndarray]):
        self.file = file
        self.rows: list[Row] = []
        self.notes: list[str] = []  # what a reader of the rows must know
        self._arrays = arrays
        self._read: set[str] = set()

    @property
    def unread(self) -> list[str]:
        """Arrays of the file that nothing has asked for."""
        return [name for name in self._arrays if name not in self._read]

    def input(self, array: str) -> Shaped[np.ndarray, "..."]:
        """An array that the replay reads.

        Raises:
            MissingArray: the file has no such array; the failed row is written.
        """
        self._read.add(array)
        if array not in self._arrays:
            self.fail(array)
            raise MissingArray(array)
        return self._arrays[array]

    def close(self, array: str, actual, tolerance: float = FEATURES) -> None:
        """Compare with the file's `array`, which has the channel order and shape of `actual`.

        A NaN equals a NaN and an infinity itself; a missing array or another shape fails.
        """
        self._read.add(array)
        if array not in self._arrays:
            return self.fail(array, tolerance)
        error = max_abs_error(np.asarray(actual), self._arrays[array])
        self.rows.append(Row(self.file, array, error, tolerance, error <= tolerance))

    def equal(self, array: str, actual) -> None:
        """Compare exactly; text too."""
        self._read.add(array)
        if array not in self._arrays:
            return self.fail(array)
        actual, expected = np.asarray(actual), self._arrays[array]
        if actual.dtype.kind in "US" or expected.dtype.kind in "US":
            same = actual.shape == expected.shape and bool((actual == expected).all())
            error = 0.0 if same else float("nan")
        else:
            error = max_abs_error(actual, expected)
        self.rows.append(Row(self.file, array, error, 0.0, error == 0))

    def fail(self, array: str, tolerance: float = 0.0) -> None:
        """A row for an array that could not be compared."""
        self.rows.append(Row(self.file, array, float("nan"), tolerance, False))


def max_abs_error(actual: Shaped[np.ndarray, "..."], expected: Shaped[np.ndarray, "..."]) -> float:
    """Largest difference, 0 for empty arrays; NaN where the shapes differ or only one side is NaN."""
    if actual.shape != expected.shape:
        return float("nan")
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, np.abs(actual - expected))
    return float(difference.max(initial=0.0))


def decided(
    logits: Shaped[np.ndarray, "*shape"], stored: Shaped[np.ndarray, "*shape"]
) -> UInt8[np.ndarray, "*shape"]:
    """0/1 masks; a pixel that the tolerance does not decide takes the side of the stored logits."""
    return np.where(np.abs(stored) < FEATURES, stored > 0, logits > 0).astype(np.uint8)


def channels_last(array) -> Shaped[np.ndarray, "..."]:
    """The official [..., channels, height, width] as [..., height, width, channels]."""
    return np.moveaxis(np.asarray(array), -3, -1)


def channels_first(array) -> Shaped[np.ndarray, "..."]:
    """The inverse of `channels_last`."""
    return np.moveaxis(np.asarray(array), -1, -3)


def text_table(rows: Sequence[Row]) -> str:
    """The rows as aligned lines."""
    width = max((len(row.array) for row in rows), default=0)
    files = max((len(row.file) for row in rows), default=0)
    return "\n".join(
        f"{row.file:<{files}}  {row.array:<{width}}  {_number(row.max_abs_error):>8}  {row.tolerance:8.1e}  "
        f"{'ok' if row.passed else 'FAILED'}"
        for row in rows
    )


def _number(error: float) -> str:
    return "-" if np.isnan(error) else "0" if error == 0 else f"{error:.1e}"
