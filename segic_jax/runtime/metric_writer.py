"""Numbers of a run: `metrics.jsonl` in the work directory, one JSON object a line, and TensorBoard if asked.

Each line holds "step" and whatever was measured then; a number that is not finite is null. Lines are in the
order of their steps, each step's once: a run that goes on drops what it will write again.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from segic_jax.errors import ConfigError, InputError

FILE = "metrics.jsonl"


class MetricWriter:
    """Appends to the log of a run, which a resumed run continues."""

    def __init__(self, workdir: str | os.PathLike, *, start_step: int = 0, tensorboard: bool = False):
        """Lines after `start_step`, written by a run that went on past its last checkpoint, are dropped.

        Raises:
            ConfigError: `tensorboard` without tensorboardX installed.
        """
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / FILE
        lines, damaged = _parsed(path) if path.exists() else ([], [])
        if damaged:
            print(f"{path}: left out what cannot be read, line {_listed(damaged)}.", file=sys.stderr)
        # Beside it first: killed at any moment, the log is the old one or the new one.
        part = path.with_name(FILE + ".part")
        kept = [line for line in lines if line["step"] <= start_step]
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self._tensorboard = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter  # 2 s to import
            except ImportError:
                raise ConfigError(
                    "train.tensorboard needs tensorboardX: run `pip install tensorboardX`, or leave it False."
                ) from None
            # Its thread writes; killed, it loses up to five seconds, which the JSON lines still have.
            self._tensorboard = SummaryWriter(str(workdir), purge_step=start_step + 1, flush_secs=5)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: `values` measured after `step` steps; it is on the disk when this returns."""
        values = {name: n if isinstance(n, int) else float(n) for name, n in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())  # before a checkpoint of this step: else a lost machine would lose it
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything written is on disk after this."""
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl`; a last line cut short by a crash is left out.

    Raises:
        InputError: there is no such file, or it is damaged before its end.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        raise InputError(f"{workdir} has no {FILE}: give the work directory of a training.")
    lines, damaged = _parsed(path)
    if damaged:
        raise InputError(
            f"{path} is damaged: line {_listed(damaged)} cannot be read; delete what is not a whole line."
        )
    return lines


def _parsed(path: Path) -> tuple[list[dict], list[int]]:
    """The whole lines, and the numbers of those that are none; the last line may be cut short."""
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
