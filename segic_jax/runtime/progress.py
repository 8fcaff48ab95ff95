"""Report the progress of long work on a terminal or in a log."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_INTERVAL = 60  # seconds between two lines of a log


def bar(items: Iterable | None = None, *, enabled: bool = True, file: Any = None, **options) -> "tqdm":
    """Return a tqdm bar on stderr; off a terminal it prints one line a minute, and none for short work.

    Args:
        enabled: False in all processes but the main one.
        file: another text stream than stderr.
        options: of tqdm, such as total, initial, desc, unit, leave.
    """
    from tqdm import tqdm

    file = file or sys.stderr
    if not file.isatty():
        options |= {"delay": LOG_INTERVAL, "mininterval": LOG_INTERVAL, "maxinterval": 2 * LOG_INTERVAL}
    return tqdm(items, disable=not enabled, file=file, **options)


def write_line(text: object, *, to_stderr: bool = False) -> None:
    """Print a line to stdout or stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    file = sys.stderr if to_stderr else sys.stdout
    tqdm.write(str(text), file=file)
    file.flush()
