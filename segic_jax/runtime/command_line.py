"""Run the work of a command and turn its end into an exit code and, for wrong input, one sentence."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from segic_jax.errors import InputError


def run_command(work: Callable[[], int | None], stopped: str = "Stopped.") -> int:
    """Do the work and return its exit code: what it returned, 2 for wrong input, 130 after Ctrl-C.

    Args:
        stopped: the message to print after Ctrl-C.
    """
    _silence_libraries()
    _prepare_streams()
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
    if "cv2" in sys.modules:
        sys.modules["cv2"].utils.logging.setLogLevel(0)
    warnings.filterwarnings("ignore", module="PIL")


def _prepare_streams() -> None:
    """Make printing safe: to closed streams, and of file names that the terminal cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
