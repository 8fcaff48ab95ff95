"""Write files and folders so that they appear under their names only once they are complete.

A file is written beside its final place, under a name that ends in `.part`, and renamed at the end. Whoever
reads meanwhile, or after the process was killed, finds the older file or none.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segic_jax.errors import DataError, InputError

_NOT_A_FILE = "{} is a folder, a device or not a valid file name: give another path."


def require_path(path: Path | str, error: Callable[[str], InputError] = DataError) -> Path:
    """Return `path` as a Path.

    Raises:
        error: it is neither a string nor a Path, or no file can have this name.
    """
    if not isinstance(path, (str, Path)):
        raise error(f"The path of a file must be a string or a Path, not {type(path).__name__}.")
    if "\0" in str(path):
        raise error(_NOT_A_FILE.format(repr(str(path))))
    return Path(path)


def make_folder(path: Path, error: Callable[[str], InputError] = DataError) -> None:
    """Create a folder and its parents, if they do not exist.

    Raises:
        error: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        message = problem.strerror or problem
        raise error(f"The folder {path} cannot be created ({message}): give another path.") from problem


def part_path(path: Path, *, keep_suffix: bool = False) -> Path:
    """Return the name under which `path` is written until it is complete.

    Args:
        keep_suffix: put `.part` before the suffix, for writers that choose the format by it.
    """
    name = path.name
    if len(name) > 60:  # a name that just fits must not become too long, nor equal to another one's
        name = f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{name[-52:]}"
    if keep_suffix:
        return path.with_name(f"{name.removesuffix(path.suffix)}.part{path.suffix}")
    return path.with_name(f"{name}.part")


@contextmanager
def atomic_path(
    path: Path | str, error: Callable[[str], InputError] = DataError, *, keep_suffix: bool = False
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` at the end, or remove it after an exception.

    Args:
        error: makes the exception to raise, from its message.
        keep_suffix: as `part_path` has it.

    Raises:
        error: the folder is missing, the disk is full or fails, or `path` exists and is not a regular file.
    """
    path = require_path(path, error)
    # A rename would put a file in the place of a device, such as /dev/null.
    if path.exists() and not path.is_file():
        raise error(_NOT_A_FILE.format(repr(str(path))))
    part = part_path(path, keep_suffix=keep_suffix)
    try:
        yield part
        part.replace(path)
    except OSError as problem:
        raise error(f"{path} cannot be written to: {problem.strerror or problem}.") from problem
    finally:
        with suppress(OSError):  # it exists after an exception only
            part.unlink()


def atomic_write(
    path: Path | str, content: bytes | str | Iterable[bytes], error: Callable[[str], InputError] = DataError
) -> None:
    """Write a file; an older one stays as it is until the new one is complete.

    Args:
        content: bytes, text (stored as UTF-8), or pieces of bytes in order.

    Raises:
        error: as `atomic_path`.
    """
    if isinstance(content, str):
        content = content.encode()
    with atomic_path(path, error) as part:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            with part.open("wb") as file:
                file.writelines(content)


@contextmanager
def atomic_folder(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it to `path` at the end.

    Args:
        shared: whether several processes may write the same folder at once: the first one wins, and the
            work of the others is discarded. Otherwise an older folder at `path` is replaced, and what a
            killed process left is removed.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    else:
        part = part_path(path)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    try:
        yield part
        if not shared:
            shutil.rmtree(path, ignore_errors=True)
        try:
            part.replace(path)
        except OSError:
            if not (shared and path.is_dir()):  # else another process was first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
