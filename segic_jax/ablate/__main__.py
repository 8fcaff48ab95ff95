"""`python -m segic_jax.ablate --config configs/emoji_ablation.py --out DIR [--only GROUP]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.ablate.run import FULL, QUICK, ablate
from segic_jax.compile_cache import use_compile_cache
from segic_jax.config import InputError, load_config
from segic_jax.train.loop import TrainingError


@dataclass
class Args:
    """Train a head for every row of the table over the same frozen features, and compare them.

    Run again with the same arguments to go on after a stop.
    """

    config: Path
    """Model, optimizer, length and backbone, such as configs/emoji_ablation.py."""
    out: Path
    """Where table.md, table.json and plot.png go, and all that is kept for going on."""
    only: str = ""
    """A group (instructions, augmentation, ...) or a row; the default row is run with it."""
    quick: bool = False
    """A few steps on a few scenes: whether it runs, not what comes out."""


def main(args: Args) -> int:
    """Returns the exit code: 0, 1 where a training failed, 2 where the input was wrong, 130 after Ctrl-C."""
    try:
        use_compile_cache()
        budget = QUICK if args.quick else FULL
        ablate(load_config(args.config), args.out, only=args.only, budget=budget)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    print((args.out / "table.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
