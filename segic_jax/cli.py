"""The `segic` command."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from segic_jax.commands.app import App
from segic_jax.commands.data import Data
from segic_jax.commands.emoji import Emoji
from segic_jax.commands.episodes import Episodes
from segic_jax.commands.parity import Parity
from segic_jax.commands.predict import Predict
from segic_jax.commands.runs import Runs
from segic_jax.commands.weights import Convert, Export, Weights
from segic_jax.config import InputError

Command = (
    Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[App, tyro.conf.subcommand("app")]
    | Annotated[Emoji, tyro.conf.subcommand("emoji")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Episodes, tyro.conf.subcommand("episodes")]
    | Annotated[Parity, tyro.conf.subcommand("parity")]
    | Annotated[Runs, tyro.conf.subcommand("runs")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the exit code is 2 if some input was wrong."""
    command = tyro.cli(
        Command,
        prog="segic",
        description="Show one picture with a mask, and find the same thing in other pictures.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    try:
        sys.exit(command.run())
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
