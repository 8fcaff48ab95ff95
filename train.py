"""Train SegIC: `python train.py --config emoji_tiny --workdir DIR`, as `segic train`."""

import sys

from segic_jax.runtime.command_line import run_command


def main() -> int:
    """Run `segic train` with the arguments of the command line and return its exit code."""
    from segic_jax.commands.parser import parse

    return parse(["train", *sys.argv[1:]]).run()


if __name__ == "__main__":
    sys.exit(run_command(main))
