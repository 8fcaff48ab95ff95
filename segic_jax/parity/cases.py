"""Replay the further cases of a dump: semantic segmentation, a video, and a training step.

`tools/dump_cases.py` stores them under the names of the goldens, so that the replays of goldens compute them;
only arrays that a dump holds are compared.
"""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax.errors import DumpError, MissingArray
from segic_jax.parity.checker import FEATURES, LOSSES, Checker, Row
from segic_jax.parity.dump import ROUNDING, ROUNDINGS, Dump
from segic_jax.parity.golden_files import Segic
from segic_jax.parity.replays.inference import replay_semseg
from segic_jax.parity.replays.training import replay_training
from segic_jax.parity.replays.video import replay_vos
from segic_jax.parity.stages import LARGEST_TIE
from segic_jax.weights.sources import read_safetensors
from segic_jax.weights.torch_names import Tensors

REPLAYS: dict[str, Callable] = {"semantic": replay_semseg, "video": replay_vos, "train": replay_training}


@dataclass(frozen=True)
class DumpModel:
    """Give the model of a dump to the replays of goldens."""

    dump: Dump

    def segic(self, canvas: int) -> Segic:
        """Return the model; a dump has one canvas."""
        dump = self.dump
        return Segic(dump.config, dump.text_config, dump.backbone, dump.text, dump.head)

    def weights(self, name: str) -> Tensors:
        """Read a file of gradients."""
        return read_safetensors(self.dump.folder / f"{name}.safetensors")


class StoredOnly(Checker):
    """Compare what a file holds, and find out whether a point is a tie."""

    def __init__(self, file: str, arrays: dict[str, np.ndarray]):
        super().__init__(file, arrays)
        self.tied = False

    def close(self, array: str, actual, tolerance: float = FEATURES) -> None:
        """Compare an array that the file has."""
        if array in self._arrays:
            super().close(array, actual, tolerance)

    def equal(self, array: str, actual) -> None:
        """Compare an array that the file has; places of the same similarity are a tie."""
        if array not in self._arrays:
            return
        super().equal(array, actual)
        maps = self._arrays.get(array.replace("point_coords", "mask_input"))
        if array.endswith("point_coords") and maps is not None and not self.rows[-1].passed:
            self.tied = _is_tie(maps[:, 0], np.asarray(actual), self._arrays[array])
            self.rows[-1] = replace(self.rows[-1], passed=self.tied)


def _is_tie(maps: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Return whether torch's similarity at all our points is that at its own, up to rounding."""
    if ours.shape != theirs.shape:
        return False
    values = [
        [float(each[int(y), int(x)]) for x, y in (ours[i, 0], theirs[i, 0])] for i, each in enumerate(maps)
    ]
    return all(abs(mine - other) <= LARGEST_TIE for mine, other in values)


def compare_case(dump: Dump, entry: dict) -> list[dict]:
    """Replay one case in float32 and return its rows for the report.

    Raises:
        DumpError: the file is missing, damaged, of an unknown kind, or lacks an array that the replay needs.
    """
    path, kind = dump.folder / str(entry.get("file")), str(entry.get("kind"))
    if kind not in REPLAYS:
        raise DumpError(f"{dump.folder / 'manifest.json'} names a case of an unknown kind, {kind!r}.")
    arrays = _read(path)
    check = StoredOnly(path.stem, arrays)
    try:
        with jax.default_matmul_precision("highest"):
            REPLAYS[kind](DumpModel(dump), check, jnp.float32)
    except MissingArray as error:
        raise DumpError(f"{path} lacks {error}; run tools/dump_torch.py again.") from error
    return [{"case": kind, "file": path.name} | _judged(row, check, arrays, kind) for row in check.rows]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DumpError(f"{path} is damaged ({error}); run tools/dump_torch.py again.") from error


def _judged(row: Row, check: StoredOnly, arrays: dict[str, np.ndarray], kind: str) -> dict:
    """Return a row for the report, with a tolerance as that of the pairs' stages.

    Where a point ties, only the arrays that do not depend on it are judged.
    """
    expected, rounding = arrays.get(row.array), arrays.get(ROUNDING + row.array)
    tolerance = row.tolerance
    if row.tolerance in (FEATURES, LOSSES) and expected is not None and expected.dtype.kind == "f":
        tolerance *= max(1.0, float(np.abs(expected).max(initial=0)))
    if rounding is not None and tolerance:
        tolerance = max(tolerance, ROUNDINGS * float(rounding))
    passed = row.passed or bool(row.max_abs_error <= tolerance)
    tied = check.tied and not passed
    return {
        "array": row.array,
        "stage": f"{kind}, {row.array}",
        "max_abs_error": row.max_abs_error if np.isfinite(row.max_abs_error) else None,
        "tolerance": tolerance,
        "torch_rounding": None if rounding is None else float(rounding),
        "passed": passed or tied,
        "tied": tied,
    }
