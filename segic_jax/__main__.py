"""Run `python -m segic_jax` as `segic`."""

from segic_jax.commands.command_line import main

if __name__ == "__main__":
    main()
