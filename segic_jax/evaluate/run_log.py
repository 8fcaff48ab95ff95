"""Keep the finished rows of an evaluation on disk, so that a killed run continues where it stopped.

<out>/run.json                     identity of the run; a different run may not write into the same folder
<out>/parts/<host>.jsonl           one JSON line for each finished item, with its "index"
"""

import errno
import fcntl
import json
import os
from pathlib import Path

import jax

from segic_jax.errors import DataError
from segic_jax.runtime import distributed
from segic_jax.runtime.atomic_write import atomic_write


class RunLog:
    """Hold the finished rows of a run on all hosts; a context manager that closes its file."""

    def __init__(self, out: Path, identity: dict):
        """Open the log and read the rows of an earlier start. Every host must call this at the same time.

        Args:
            identity: everything the rows depend on; JSON values only.

        Raises:
            DataError: the folder holds another run or a damaged one, is in use, or cannot be written to.
        """
        self._path = out / "parts" / f"{jax.process_index():05}.jsonl"
        self._file: int | None = None
        try:
            with distributed.raise_on_all_hosts():
                self._file = _open_locked(self._path, out)
                if distributed.is_main_host():
                    _check_identity(out / "run.json", json.loads(json.dumps(identity)))
            with distributed.raise_on_all_hosts():
                rows = [row for path in sorted(self._path.parent.glob("*.jsonl")) for row in _read_rows(path)]
                _drop_partial_line(self._path)
        except BaseException:
            self.close()
            raise
        by_index = {row["index"]: row for row in rows}
        # Hosts may or may not see each other's files: gather everything once.
        self.done: dict[int, dict] = {
            row["index"]: row for part in distributed.gather_json([*by_index.values()]) for row in part
        }

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def add(self, row: dict) -> None:
        """Append a row of this host; it is on disk when this returns.

        Raises:
            DataError: the disk is full, or fails.
        """
        assert self._file is not None, "the log is closed"
        line = (json.dumps(row) + "\n").encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise DataError(f"{self._path} cannot be written to: {error.strerror}.") from error
        self.done[row["index"]] = row

    def gather(self) -> dict[int, dict]:
        """Return the rows of all hosts by index, ascending; every host must call it."""
        rows = [row for part in distributed.gather_json([*self.done.values()]) for row in part]
        return {row["index"]: row for row in sorted(rows, key=lambda row: row["index"])}

    def close(self) -> None:
        """Close the file and release the folder."""
        if self._file is not None:
            os.close(self._file)
        self._file = None


def _open_locked(path: Path, out: Path) -> int:
    """Open the file for appending and lock it; the lock ends with the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"{out} cannot be written to ({error.strerror}): choose another --out.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise DataError(
            f"Another run writes into {out}: wait until it ends, or choose another --out."
        ) from error
    except OSError:
        pass  # a file system without locks
    return file


def _check_identity(path: Path, identity: dict) -> None:
    if not path.exists():
        atomic_write(path, (json.dumps(identity, indent=2) + "\n").encode())
        return
    try:
        stored = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: delete its folder or choose another --out.") from error
    different = sorted(key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key))
    if different:
        raise DataError(
            f"{path.parent} holds another run (different {', '.join(different)}): "
            "choose another --out or delete it."
        )


def _read_rows(path: Path) -> list[dict]:
    """Read all complete lines; a run that was killed may have left a partial one."""
    content = path.read_bytes()
    try:
        rows = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        if not all(isinstance(row, dict) and isinstance(row.get("index"), int) for row in rows):
            raise ValueError("a line of another program")
        return rows
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: delete it, and its items are evaluated again.") from error


def _drop_partial_line(path: Path) -> None:
    """Cut off an incomplete last line; only the host that appends to the file may do this."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
