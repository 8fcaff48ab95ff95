"""Compare arrays with the official ones: one row, with the largest difference, for each array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from segic_jax.errors import MissingArray

FEATURES = 1e-4  # tolerance of features, prompts and logits
LOSSES = 1e-6
IMAGES = 2e-3  # of resized images in 0..255: torch computes the source coordinates in float32


@dataclass(frozen=True)
class Row:
    """Hold the comparison of one array."""

    file: str
    array: str
    max_abs_error: float  # NaN if the array is missing, has another shape, or is NaN on one side
    tolerance: float
    passed: bool

    def to_json(self) -> dict:
        """Return the row for JSON, with null in place of NaN and infinity."""
        error = self.max_abs_error
        return {
            "file": self.file,
            "array": self.array,
            "max_abs_error": error if np.isfinite(error) else None,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


class Checker:
    """Compare computed arrays with those of one file, and note which of its arrays were read."""

    def __init__(self, file: str, arrays: Mapping[str, np.ndarray]):
        self.file = file
        self.rows: list[Row] = []
        self.notes: list[str] = []  # remarks that the reader of the rows needs
        self._arrays = arrays
        self._read: set[str] = set()

    @property
    def unread(self) -> list[str]:
        """Return the arrays of the file that were not read yet."""
        return [name for name in self._arrays if name not in self._read]

    def input(self, array: str) -> Shaped[np.ndarray, "..."]:
        """Return an array that the replay needs.

        Raises:
            MissingArray: the file has no such array; the failed row is added.
        """
        self._read.add(array)
        if array not in self._arrays:
            self.fail(array)
            raise MissingArray(array)
        return self._arrays[array]

    def close(self, array: str, actual, tolerance: float = FEATURES) -> None:
        """Compare with the file's `array`, which has the channel order and shape of `actual`.

        NaN equals NaN, and an infinity equals itself; a missing array or another shape fails.
        """
        self._read.add(array)
        if array not in self._arrays:
            return self.fail(array, tolerance)
        error = max_abs_error(np.asarray(actual), self._arrays[array])
        self.rows.append(Row(self.file, array, error, tolerance, error <= tolerance))

    def equal(self, array: str, actual) -> None:
        """Compare exactly; strings as well."""
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
        """Add a failed row for an array that cannot be compared."""
        self.rows.append(Row(self.file, array, float("nan"), tolerance, False))


def max_abs_error(actual: Shaped[np.ndarray, "..."], expected: Shaped[np.ndarray, "..."]) -> float:
    """Return the largest difference, 0 for empty arrays, or NaN if shapes differ or one side alone is NaN."""
    if actual.shape != expected.shape:
        return float("nan")
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, np.abs(actual - expected))
    return float(difference.max(initial=0.0))


def threshold_like(
    logits: Shaped[np.ndarray | jax.Array, "*shape"], stored: Shaped[np.ndarray | jax.Array, "*shape"]
) -> UInt8[np.ndarray, "*shape"]:
    """Return 0/1 masks of logits; pixels whose stored logit is within the tolerance of 0 follow that."""
    return np.where(np.abs(stored) < FEATURES, stored > 0, logits > 0).astype(np.uint8)


def channels_last(array) -> Shaped[np.ndarray, "..."]:
    """Move the channels of the official [..., channels, height, width] to the end."""
    return np.moveaxis(np.asarray(array), -3, -1)


def channels_first(array) -> Shaped[np.ndarray, "..."]:
    """Invert `channels_last`."""
    return np.moveaxis(np.asarray(array), -1, -3)


def format_rows(rows: Sequence[Row]) -> str:
    """Format rows as aligned lines."""
    width = max((len(row.array) for row in rows), default=0)
    files = max((len(row.file) for row in rows), default=0)
    return "\n".join(
        f"{row.file:<{files}}  {row.array:<{width}}  {_format_error(row.max_abs_error):>8}  "
        f"{row.tolerance:8.1e}  {'ok' if row.passed else 'FAILED'}"
        for row in rows
    )


def _format_error(error: float) -> str:
    return "-" if np.isnan(error) else "0" if error == 0 else f"{error:.1e}"
