"""Adapt a model to your own images: `python finetune.py --data DIR --workdir OUT`, as `segic finetune`."""

import sys

from segic_jax.runtime.command_line import run_command


def main() -> int:
    """Run `segic finetune` with the arguments of the command line and return its exit code."""
    from segic_jax.commands.parser import parse

    return parse(["finetune", *sys.argv[1:]]).run()


if __name__ == "__main__":
    sys.exit(run_command(main))
