"""Run `segic`: parse the command line, run the command that it names, and turn its end into an exit code.

Each command lives in a module of its own. Nothing slow is imported before Ctrl-C is handled.
"""

import difflib
import functools
import importlib
import inspect
import operator
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from segic_jax.errors import InputError, InputWarning
from segic_jax.runtime import progress

# Each command's module in segic_jax.commands, and its class.
COMMANDS = {
    "predict": "predict.Predict",
    "fit": "fit.Fit",
    "video": "video.Video",
    "explain": "explain.Explain",
    "app": "app.App",
    "serve": "serve.Serve",
    "doctor": "doctor.Doctor",
    "train": "train.Train",
    "finetune": "finetune.Finetune",
    "plan": "plan.Plan",
    "eval": "eval.Eval",
    "calibrate": "calibrate.Calibrate",
    "weights": "weights.Weights",
    "convert": "weights.Convert",
    "export": "export.Export",
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
        InputError: there is no such command, or an argument contains a NUL byte, which no file name can have.
    """
    if any("\0" in argument for argument in arguments):
        raise InputError("An argument contains a NUL byte: leave it out.")
    name, *rest = arguments or [""]
    if name in COMMANDS:  # only this command's module is imported
        command = _command(name)
        if hasattr(command, "parse"):  # its options depend on an argument: the configuration of a training
            return command.parse(rest)
        return _parse_command(command, f"segic {name}", rest)
    _require_help("segic", COMMANDS, arguments)
    return _parse_choice({name: _command(name) for name in COMMANDS}, "segic", DESCRIPTION, arguments)


def _parse_command(command: type, program: str, arguments: Sequence[str]) -> Any:
    """Parse the arguments of a command, or of the one of its ACTIONS that the first argument names."""
    description = inspect.getdoc(command) or ""
    actions: dict[str, type] | None = getattr(command, "ACTIONS", None)
    if actions is None:
        return _parse(command, program, description, arguments)
    if arguments and arguments[0] in actions:
        name, *rest = arguments
        return _parse_command(actions[name], f"{program} {name}", rest)
    _require_help(program, actions, arguments)
    return _parse_choice(actions, program, description, arguments)


def _require_help(program: str, names: Iterable[str], arguments: Sequence[str]) -> None:
    """Refuse a first argument that is no command, unless help is asked for."""
    if arguments and not {"-h", "--help"} & set(arguments):
        close = difflib.get_close_matches(arguments[0], names, 1)
        advice = f"did you mean '{close[0]}'?" if close else f"choose {', '.join(names)}."
        raise InputError(f"{program} has no command '{arguments[0]}': {advice}")


def _parse_choice(commands: dict[str, type], program: str, description: str, arguments: Sequence[str]) -> Any:
    """Print the help, with a line for each command."""
    import tyro

    lines = (
        Annotated[command, tyro.conf.subcommand(name, description=(command.__doc__ or "").partition("\n")[0])]
        for name, command in commands.items()
    )
    return _parse(functools.reduce(operator.or_, lines), program, description, arguments)


def _parse(form: Any, program: str, description: str, arguments: Sequence[str]) -> Any:
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(form, prog=program, description=description, args=arguments, config=config)


def _command(name: str) -> type:
    module, _, cls = COMMANDS[name].partition(".")
    return getattr(importlib.import_module(f"segic_jax.commands.{module}"), cls)


def run_command(work: Callable[[], int | None], stopped: str = "Stopped.") -> int:
    """Do the work and return its exit code: what it returned, 2 for wrong input, 130 after Ctrl-C.

    Args:
        stopped: the message to print after Ctrl-C.
    """
    _silence_libraries()
    _prepare_streams()
    _print_input_warnings()
    interrupts = _record_interrupts()
    try:
        code = work()
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        sentence = str(error)
    except OSError as error:
        name = str(error.filename or "The system")
        name = name[:200] + "..." if len(name) > 200 else name
        sentence = (
            f"{name} cannot be used ({error.strerror or error}): "
            "check its name, its permissions and the free disk space."
        )
    except MemoryError:
        sentence = "There is not enough memory: give smaller or fewer images."
    except (KeyboardInterrupt, ImportError) as error:
        if isinstance(error, ImportError) and not interrupts:
            raise
        print(stopped, file=sys.stderr)
        return 130
    print(sentence, file=sys.stderr)
    return 2


def _record_interrupts() -> list[int]:
    """Return a list that collects Ctrl-C signals: a compiled library may turn one into an ImportError."""
    received: list[int] = []

    def record(number, frame) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, record)
    return received


def _silence_libraries() -> None:
    """Switch off what OpenCV, FFmpeg and Pillow print about damaged files: our messages name them."""
    os.environ |= {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}  # read at their first use
    if opencv := sys.modules.get("cv2"):
        # OpenCV 5 moved the function.
        set_level = getattr(opencv, "setLogLevel", None) or opencv.utils.logging.setLogLevel
        set_level(0)
    warnings.filterwarnings("ignore", module="PIL")


def _print_input_warnings() -> None:
    """Print what is doubtful about inputs as a line on stderr each, and other warnings as Python does."""
    show = warnings.showwarning

    def print_line(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, InputWarning):
            progress.write_line(f"warning: {message}", to_stderr=True)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = print_line
    warnings.filterwarnings("always", category=InputWarning)


def _prepare_streams() -> None:
    """Make printing safe: to closed streams, and of file names that the terminal cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
