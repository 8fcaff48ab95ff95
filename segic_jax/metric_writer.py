"""Numbers of a run: `metrics.jsonl` in the work directory, one JSON object a line, and TensorBoard if asked.

Each line holds "step" and whatever was measured then; a number that is not finite is null.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from segic_jax.config import ConfigError

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
        kept = [line for line in read_metrics(workdir) if line["step"] <= start_step] if path.exists() else []
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (a line is on disk at once)
        self._tensorboard = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter  # 2 s to import
            except ImportError:
                raise ConfigError(
                    "train.tensorboard needs tensorboardX: run `pip install tensorboardX`, or leave it False."
                ) from None
            self._tensorboard = SummaryWriter(str(workdir))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: `values` measured after `step` steps."""
        values = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything written is on disk after this."""
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl`; a last line cut short by a crash is left out."""
    lines = []
    with open(Path(workdir) / FILE, encoding="utf-8") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines
