"""Folders of arrays made once from large files, in the user's cache.

A folder is made under another name and moved into place whole: several processes may make the same one.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from segic_jax.config import cache_folder
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_folder


def cached(kind: str, version: list, make: Callable[[Path], None]) -> Path:
    """The folder `kind`-<hash of version> of the cache; `make` fills it where it is not there yet.

    Args:
        version: everything that the content depends on, as JSON takes it: of a file its path, size and time.

    Raises:
        DataError: the cache cannot be written; and whatever `make` raises.
    """
    name = f"{kind}-{hashlib.sha256(json.dumps(version).encode()).hexdigest()[:16]}"
    folder = cache_folder() / "data" / name
    if folder.is_dir():
        return folder
    try:
        with atomic_folder(folder, shared=True) as part:
            make(part)
    except OSError as error:
        raise DataError(
            f"{folder.parent} cannot be written to ({error.strerror}): make room, or name another folder in "
            "SEGIC_CACHE."
        ) from error
    return folder


def file_version(path: Path) -> list:
    """For `cached`. Raises DataError where there is no such file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: there is no such file.") from error
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
