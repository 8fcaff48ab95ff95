"""Write and read the metrics of a run: `metrics.jsonl` in the work directory, and optional TensorBoard files.

Each line is a JSON object with "step" and the values measured at that step; a value that is not finite is
null. Lines are in the order of their steps. A resumed run drops the lines after its checkpoint, which it
writes again.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from segic_jax.errors import ConfigError, InputError
from segic_jax.runtime.atomic_write import atomic_write

FILE = "metrics.jsonl"


class MetricWriter:
    """Append to the metrics of a run; a resumed run continues them."""

    def __init__(self, workdir: str | os.PathLike, *, start_step: int = 0, tensorboard: bool = False):
        """Open the file and drop lines after `start_step`, written after the last checkpoint.

        Raises:
            ConfigError: `tensorboard` is set and tensorboardX is not installed.
        """
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / FILE
        lines, damaged = _parsed(path) if path.exists() else ([], [])
        if damaged:
            print(f"{path}: dropped lines that cannot be read: {_listed(damaged)}.", file=sys.stderr)
        atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= start_step))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self._tensorboard = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter  # 2 s to import
            except ImportError:
                raise ConfigError(
                    "train.tensorboard needs tensorboardX: run `pip install tensorboardX`, or set it False."
                ) from None
            # A thread writes the file: a killed run loses up to five seconds of it, and none of the JSON
            # lines.
            self._tensorboard = SummaryWriter(str(workdir), purge_step=start_step + 1, flush_secs=5)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append `values`, measured after `step` steps, as a line that is on disk when this returns."""
        numbers = {name: n if isinstance(n, int) else float(n) for name, n in values.items()}
        finite = {name: n if math.isfinite(n) else None for name, n in numbers.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        # Before a checkpoint of this step is written: a crash of the machine must not leave that alone.
        os.fsync(self._file.fileno())
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files; everything written is on disk afterwards."""
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
    """Return the lines of `metrics.jsonl`, without a last line that a crash cut short.

    Raises:
        InputError: the file is missing, or damaged before its end.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        raise InputError(f"{workdir} has no {FILE}: give the work directory of a training.")
    lines, damaged = _parsed(path)
    if damaged:
        raise InputError(f"{path} is damaged: delete the lines that cannot be read ({_listed(damaged)}).")
    return lines


def _parsed(path: Path) -> tuple[list[dict], list[int]]:
    """Return the complete lines, and the numbers of damaged ones; the last line may be cut short."""
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines, damaged = [], []
    for number, row in enumerate(rows, 1):
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):  # also a number of thousands of digits
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
        elif number < len(rows):
            damaged.append(number)
    return lines, damaged


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
