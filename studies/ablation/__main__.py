"""Run the ablations: `python -m studies.ablation --config emoji_ablation --out DIR [--only GROUP]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.commands.command_line import run_command
from segic_jax.errors import TrainingError
from segic_jax.runtime.compile_cache import use_compile_cache
from segic_jax.train.experiment import load_config
from studies.ablation.run import FULL, QUICK, run_ablation


@dataclass
class Args:
    """Train a head for every row of the table over the same frozen features, and compare them.

    Run the same command again to continue after a stop.
    """

    config: str
    """Model, optimizer, length and backbone: a name such as emoji_ablation, or the path of a file."""
    out: Path
    """Where table.md, table.json and plot.png go, and all that is needed to continue."""
    only: str = ""
    """A group (prompts, augmentation, ...) or a row; the default row is run with it."""
    quick: bool = False
    """Take a few steps on a few scenes, to see whether it runs."""


def main(args: Args) -> int:
    """Run the ablation and return the exit code: 0, or 1 where a training failed."""
    use_compile_cache()
    budget = QUICK if args.quick else FULL
    try:
        run_ablation(load_config(args.config), args.out, only=args.only, budget=budget)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    print((args.out / "table.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args)), "Stopped; run the same command again to continue."))
