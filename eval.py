"""Score a model on a benchmark: `python eval.py --benchmark fss1000 --data-root DIR`, as `segic eval`."""

import sys

from segic_jax.runtime.command_line import run_command


def main() -> int:
    """Run `segic eval` with the arguments of the command line and return its exit code."""
    from segic_jax.commands.parser import parse

    return parse(["eval", *sys.argv[1:]]).run()


if __name__ == "__main__":
    sys.exit(run_command(main))
