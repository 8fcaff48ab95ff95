"""Measure whether the input slows training down: the same steps with real input, and with one batch repeated.

    python -m benchmarks.overlap --config configs/emoji_mixed.py

Prints the median step time of both and their ratio, which is 1 if the input is hidden behind the steps.
"""

import dataclasses
import json
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from segic_jax.config import Config
from segic_jax.runtime.metric_writer import read_metrics
from segic_jax.train import loop
from segic_jax.train.experiment import load_config
from segic_jax.train.run import build


@dataclass
class Args:
    config: Path
    """Training configuration; validations and checkpoints are left out."""
    steps: int = 40
    """Steps of each training; the first quarter is not timed."""
    rounds: int = 2
    """Rounds of both trainings, in turn."""


class Repeated:
    """Repeat the first batch of an iterator without end."""

    def __init__(self, batches):
        self._first = next(batches)
        batches.close()

    def __next__(self):
        return self._first

    def close(self) -> None:
        """Do nothing: the iterator was closed already."""


def main(args: Args) -> None:
    """Measure and print."""
    config = load_config(args.config)
    settings = dataclasses.replace(
        config.train,
        steps=args.steps,
        log_every=1,
        eval_every=args.steps + 1,
        checkpoint_every=args.steps + 1,
    )
    config = dataclasses.replace(config, validations=(), train=settings)
    real, seconds = loop.training_batches, {"real input": [], "one batch": []}
    for _ in range(args.rounds):
        seconds["real input"] += _steps(config)
        replace_input(lambda *arguments, **options: Repeated(real(*arguments, **options)))
        seconds["one batch"] += _steps(config)
        replace_input(real)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, values in seconds.items():
        low, high = np.percentile(values, [10, 90])
        print(f"{name:<11} {medians[name]:.3f} s a step (10 to 90 %: {low:.3f} to {high:.3f})")
    print(json.dumps({"ratio": round(medians["real input"] / medians["one batch"], 3)}))


def replace_input(batches: Any) -> None:
    """Let the training loop take its batches from another function."""
    loop.training_batches = batches


def _steps(config: Config) -> list[float]:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        loop.train(config, Path(folder), build(config))
        lines = read_metrics(folder)
    return [line["step_seconds"] for line in lines][config.train.steps // 4 :]


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
