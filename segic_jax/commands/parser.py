"""The `segic` command."""

import functools
import operator
import sys
from collections.abc import Sequence
from inspect import getdoc
from typing import Annotated, Any

import tyro

from segic_jax.commands.app import App
from segic_jax.commands.calibrate import Calibrate
from segic_jax.commands.data import Data
from segic_jax.commands.doctor import Doctor
from segic_jax.commands.emoji import Emoji
from segic_jax.commands.episodes import Episodes
from segic_jax.commands.eval import Eval
from segic_jax.commands.explain import Explain
from segic_jax.commands.fit import Fit
from segic_jax.commands.parity import Parity
from segic_jax.commands.predict import Predict
from segic_jax.commands.runs import Runs
from segic_jax.commands.video import Video
from segic_jax.commands.weights import Convert, Export, Weights
from segic_jax.errors import InputError
from segic_jax.runtime.command_line import run_command

COMMANDS: dict[str, type] = {
    "predict": Predict,
    "fit": Fit,
    "video": Video,
    "explain": Explain,
    "app": App,
    "doctor": Doctor,
    "eval": Eval,
    "calibrate": Calibrate,
    "weights": Weights,
    "convert": Convert,
    "export": Export,
    "data": Data,
    "episodes": Episodes,
    "emoji": Emoji,
    "runs": Runs,
    "parity": Parity,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run_command(lambda: parse(arguments).run()))


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments ask for; wrong ones print why and exit with 2.

    Raises:
        InputError: a NUL byte, which no file name can have.
    """
    if any("\0" in argument for argument in arguments):
        raise InputError("An argument holds a NUL byte: leave it out.")
    # The list of commands shows a line of each, a command's own help all of it.
    described = [
        Annotated[
            command,
            tyro.conf.subcommand(name, description=_help(command, whole=name in arguments[:1])),
        ]
        for name, command in COMMANDS.items()
    ]
    return tyro.cli(
        functools.reduce(operator.or_, described),
        prog="segic",
        description=(
            "Show one image with a mask, and find the same thing in other images.\n\n"
            "  segic predict --ref cat.jpg cat.png photos/ --out found/\n"
            "  segic predict --help"
        ),
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _help(command: type, *, whole: bool) -> str:
    text = getdoc(command) or ""
    return text if whole else text.partition("\n")[0]
