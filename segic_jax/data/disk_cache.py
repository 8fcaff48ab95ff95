"""Keep folders of arrays that are made once from large files in the user's cache folder.

A folder appears when it is complete, and several processes may make the same one at once.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from segic_jax.config import cache_folder
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_folder


def cached_folder(kind: str, version: list, fill: Callable[[Path], None]) -> Path:
    """Return the folder `kind`-<hash of version> of the cache, filled first if it does not exist.

    Args:
        version: everything that the content depends on, as JSON values, such as `file_version` of a file.
        fill: writes the files into the folder that it is given.

    Raises:
        DataError: the cache folder cannot be written to. Exceptions of `fill` pass through.
    """
    name = f"{kind}-{hashlib.sha256(json.dumps(version).encode()).hexdigest()[:16]}"
    folder = cache_folder() / "data" / name
    if folder.is_dir():
        return folder
    try:
        with atomic_folder(folder, shared=True) as part:
            fill(part)
    except OSError as error:
        raise DataError(
            f"{folder.parent} cannot be written to ({error.strerror}): free some space, or set SEGIC_CACHE "
            "to another folder."
        ) from error
    return folder


def file_version(path: Path) -> list:
    """Return path, size and time of a file, for `cached_folder`. Raises DataError if the file is missing."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: there is no such file.") from error
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
