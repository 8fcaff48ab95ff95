"""Parse the command line of `segic`; each command lives in a module of its own."""

import functools
import importlib
import inspect
import operator
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from segic_jax.errors import InputError
from segic_jax.runtime.command_line import run_command

# Each command's module in segic_jax.commands, and its class.
COMMANDS = {
    "predict": "predict.Predict",
    "fit": "fit.Fit",
    "video": "video.Video",
    "explain": "explain.Explain",
    "app": "app.App",
    "doctor": "doctor.Doctor",
    "train": "train.Train",
    "finetune": "finetune.Finetune",
    "eval": "eval.Eval",
    "calibrate": "calibrate.Calibrate",
    "weights": "weights.Weights",
    "convert": "weights.Convert",
    "export": "weights.Export",
    "data": "data.Data",
    "episodes": "episodes.Episodes",
    "emoji": "emoji.Emoji",
    "runs": "runs.Runs",
    "parity": "parity.Parity",
}
DESCRIPTION = """Segment in other images what a reference image with a mask shows.

  segic predict --ref cat.jpg cat.png photos/ --out found/
  segic COMMAND --help
  segic --version"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run_command(lambda: run(arguments)))


def run(arguments: Sequence[str]) -> int | None:
    """Run the command that the arguments ask for, and return its exit code."""
    if list(arguments) == ["--version"]:
        from segic_jax import __version__

        print(f"segic_jax {__version__}")
        return 0
    return parse(arguments).run()


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments describe; invalid ones print an error and exit with 2.

    Raises:
        InputError: an argument contains a NUL byte, which no file name can have.
    """
    if any("\0" in argument for argument in arguments):
        raise InputError("An argument contains a NUL byte: leave it out.")
    name, *rest = arguments or [""]
    settings = {
        "config": (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    }
    if name in COMMANDS:  # only this command's module is imported
        command = _command(name)
        if hasattr(command, "parse"):  # its options depend on an argument: the configuration of a training
            return command.parse(rest)
        return tyro.cli(
            command, prog=f"segic {name}", description=inspect.getdoc(command), args=rest, **settings
        )
    commands = (
        Annotated[command, tyro.conf.subcommand(name, description=(command.__doc__ or "").partition("\n")[0])]
        for name, command in ((name, _command(name)) for name in COMMANDS)
    )
    union = functools.reduce(operator.or_, commands)
    return tyro.cli(union, prog="segic", description=DESCRIPTION, args=arguments, **settings)


def _command(name: str) -> type:
    module, _, cls = COMMANDS[name].partition(".")
    return getattr(importlib.import_module(f"segic_jax.commands.{module}"), cls)
