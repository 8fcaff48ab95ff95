"""What stands around every command line of the project: an exit code, and one sentence about wrong input."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from segic_jax.errors import InputError


def exit_code(work: Callable[[], int | None], stopped: str = "Stopped.") -> int:
    """Do the work; what it returns, 2 if some input was wrong, 130 after Ctrl-C.

    Args:
        stopped: what to say after Ctrl-C.
    """
    _speak_alone()
    heard = _listen()
    try:
        code = work()
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        sentence = str(error)
    except OSError as error:
        name = str(error.filename or "The system")
        name = name[:200] + "..." if len(name) > 200 else name
        sentence = (
            f"{name} cannot be used ({error.strerror or error}): look at its name, its rights and the room."
        )
    except MemoryError:
        sentence = "There is not enough memory: give smaller or fewer images."
    except (KeyboardInterrupt, ImportError) as error:
        if isinstance(error, ImportError) and not heard:
            raise
        print(stopped, file=sys.stderr)
        return 130
    print(sentence, file=sys.stderr)
    return 2


def _listen() -> list[int]:
    """The signals of Ctrl-C as they come: a compiled library that starts makes an ImportError of them."""
    heard: list[int] = []

    def stop(number, frame) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
    return heard


def _speak_alone() -> None:
    """Damaged files are named in our words; OpenCV, FFmpeg and Pillow would add lines of their own."""
    os.environ |= {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}  # read at their first use
    if "cv2" in sys.modules:
        sys.modules["cv2"].utils.logging.setLogLevel(0)
    warnings.filterwarnings("ignore", module="PIL")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # A file's name may hold what the terminal cannot show.
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
