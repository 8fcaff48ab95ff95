"""Keep contexts in a folder, a file each, which several processes may share."""

import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.atomic_write import make_folder

ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
SUFFIX = ".segic"
CACHED = 32  # contexts in memory

Stamp = tuple[str, int, int, int]  # id, and what changes with the file


class ContextStore:
    """Read and write contexts by their ids; a file appears under its name once it is complete."""

    def __init__(self, folder: Path, segmenter: Segmenter):
        """Use a folder, which is created.

        Raises:
            DataError: it cannot be created.
        """
        make_folder(folder)
        self._folder, self._segmenter = folder, segmenter
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, tuple[Stamp, Context]] = OrderedDict()

    def ids(self) -> list[str]:
        """Return the ids of all contexts, sorted."""
        names = (path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in names if re.fullmatch(ID, name))

    def stamps(self, ids: Sequence[str]) -> tuple[Stamp, ...]:
        """Return what changes with the files of these contexts; those without a file are left out."""
        return tuple(stamp for id in ids if (stamp := self._stamp(id)) is not None)

    def _stamp(self, id: str) -> Stamp | None:
        try:
            status = self._path(id).stat()
        except OSError:
            return None
        return (id, status.st_ino, status.st_size, status.st_mtime_ns)

    def get(self, id: str) -> Context | None:
        """Return a context, or None if there is none of this id.

        Raises:
            DataError: its file is damaged, or belongs to another model.
        """
        path, stamp = self._path(id), self._stamp(id)
        if stamp is None:
            return None
        with self._lock:
            cached = self._cache.get(id)
            if cached is not None and cached[0] == stamp:
                self._cache.move_to_end(id)
                return cached[1]
        try:
            context = self._segmenter.load_context(path)
        except DataError as error:
            if not path.exists():  # deleted meanwhile
                return None
            raise DataError(str(error).replace(str(path), f"Context {id}")) from error
        with self._lock:
            self._cache[id] = (stamp, context)
            self._cache.move_to_end(id)
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return context

    def add(self, id: str, context: Context) -> bool:
        """Write a context; return False if there is one of this id already, from whatever process.

        Raises:
            DataError: the disk refuses.
        """
        path = self._path(id)
        with self._written(id, context) as part:
            try:
                os.link(part, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                if path.exists():
                    return False
                part.replace(path)
        return True

    def put(self, id: str, context: Context) -> None:
        """Write a context in place of one of this id.

        Raises:
            DataError: the disk refuses.
        """
        with self._written(id, context) as part:
            part.replace(self._path(id))

    @contextmanager
    def _written(self, id: str, context: Context) -> Iterator[Path]:
        """Write a context to a folder of its own: another process may be writing one of the same id."""
        try:
            with tempfile.TemporaryDirectory(prefix=".part", dir=self._folder) as folder:
                part = Path(folder, self._path(id).name)
                context.save(part)
                yield part
        except (DataError, OSError) as error:
            raise DataError(f"Context {id} cannot be kept: the disk of the service refuses.") from error

    def delete(self, id: str) -> bool:
        """Delete a context; return whether there was one."""
        with self._lock:
            self._cache.pop(id, None)
            try:
                self._path(id).unlink()
            except FileNotFoundError:
                return False
        return True

    def _path(self, id: str) -> Path:
        if not re.fullmatch(ID, id):
            raise DataError(
                f"{id[:80]!r} is no id of a context: an id has letters, digits, - and _, at most 64 of them."
            )
        return self._folder / f"{id}{SUFFIX}"
