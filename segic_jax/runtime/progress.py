"""How long work says how far it is."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

SECONDS = 60  # between two lines of a log


def bar(items: Iterable | None = None, *, shown: bool = True, **options) -> tqdm:
    """A bar on stderr; where that is no terminal, its state once a minute, and nothing of shorter work.

    Args:
        shown: False in all processes but one.
        options: of tqdm.
    """
    if not sys.stderr.isatty():
        options |= {"delay": SECONDS, "mininterval": SECONDS, "maxinterval": 2 * SECONDS}
    return tqdm(items, disable=not shown, **options)
