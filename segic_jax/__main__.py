"""Run `segic` and `python -m segic_jax`; Ctrl-C is handled before the slow imports begin."""

import sys

from segic_jax.runtime.command_line import run_command


def main() -> None:
    """Run the command of the command line and exit with its code."""
    sys.exit(run_command(_run))


def _run() -> int | None:
    from segic_jax.commands.parser import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    main()
