"""Files appear under their names once they are complete; until then an older one stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segic_jax.errors import InputError


def require_path(path: Path | str, error: type[InputError]) -> Path:
    """Raise `error` where it is anything else, or cannot be a name."""
    if not isinstance(path, (str, Path)):
        raise error(f"The path of a file is a text or a Path, not {type(path).__name__}.")
    if "\0" in str(path):
        raise error(f"{str(path)!r} is a folder, a device or no name of a file: give another.")
    return Path(path)


@contextmanager
def atomic_path(path: Path | str, error: type[InputError]) -> Iterator[Path]:
    """Where to write meanwhile: beside `path`. It is renamed at the end, and removed if that is not reached.

    Raises:
        error: the folder is missing, the disk is full or fails, or there is something else than a file.
    """
    path = require_path(path, error)
    # A rename would put a file in the place of a device, such as /dev/null.
    if path.exists() and not path.is_file():
        raise error(f"{str(path)!r} is a folder, a device or no name of a file: give another.")
    part = path.with_name(path.name[-60:] + ".part")  # a name that just fits must not become too long
    try:
        yield part
        part.replace(path)
    except OSError as problem:
        raise error(f"{path} cannot be written to: {problem.strerror or problem}.") from problem
    finally:
        with suppress(OSError):  # it is there after an error only
            part.unlink()
