"""`segic` and `python -m segic_jax`. Little is imported before Ctrl-C is heard; the rest takes a second."""

import sys

from segic_jax.runtime.command_line import run_command


def main() -> None:
    """Run the command of the command line and exit with its code."""
    sys.exit(run_command(_run))


def _run() -> int | None:
    from segic_jax.commands.parser import parse

    return parse(sys.argv[1:]).run()


if __name__ == "__main__":
    main()
