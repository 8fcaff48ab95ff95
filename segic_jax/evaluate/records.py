"""What a run has finished, on disk: one JSON line an item, so that a killed run goes on where it was.

<out>/run.json                     what the run is; another run may not write into the same folder
<out>/parts/<host>.jsonl           rows as they come; every one has an "index"
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from segic_jax.errors import ConfigError, DataError
from segic_jax.runtime import distributed
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import Bundle

LIBRARIES = ("segic_jax", "jax", "jaxlib", "flax", "numpy", "opencv-python-headless")
T = TypeVar("T")


class Records:
    """The rows of one run, of all hosts; a context that closes its file."""

    def __init__(self, out: Path, identity: dict):
        """Read what is there already. Every host must make it at the same time.

        Args:
            identity: what the rows depend on; JSON values only.

        Raises:
            DataError: the folder holds another run or a damaged one, is in use, or cannot be written to.
        """
        self._path = out / "parts" / f"{jax.process_index():05}.jsonl"
        self._file = None
        try:
            with distributed.raise_on_all_hosts():
                self._file = _opened(self._path, out)
                if distributed.is_main_host():
                    _claim(out / "run.json", json.loads(json.dumps(identity)))
            with distributed.raise_on_all_hosts():
                there = [row for path in sorted(self._path.parent.glob("*.jsonl")) for row in _rows(path)]
                _cut(self._path)
        except BaseException:
            self.close()
            raise
        own = {row["index"]: row for row in there}
        # Hosts may see the files of the others or not: put everything together once.
        self.done = {row["index"]: row for rows in distributed.gather_json([*own.values()]) for row in rows}

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def add(self, row: dict) -> None:
        """A row of this host, on disk when this returns.

        Raises:
            DataError: the disk is full, or fails.
        """
        line = (json.dumps(row) + "\n").encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise DataError(f"{self._path} cannot be written to: {error.strerror}.") from error
        self.done[row["index"]] = row

    def gathered(self) -> dict[int, dict]:
        """All hosts' rows by index, in rising order; every host must call it."""
        rows = [row for part in distributed.gather_json([*self.done.values()]) for row in part]
        return {row["index"]: row for row in sorted(rows, key=lambda row: row["index"])}

    def close(self) -> None:
        """Close the file, and leave the folder to others."""
        if self._file is not None:
            os.close(self._file)
        self._file = None


def _opened(path: Path, out: Path) -> int:
    """The file to append to, which no other process has; a killed one has it no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataError(f"{out} cannot be written to ({error.strerror}): choose another --out.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise DataError(f"Another run writes into {out}: let it end, or choose another --out.") from error
    except OSError:
        pass  # a file system without locks
    return file


def _claim(path: Path, identity: dict) -> None:
    if not path.exists():
        atomic_write(path, (json.dumps(identity, indent=2) + "\n").encode())
        return
    try:
        there = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: delete its folder or choose another --out.") from error
    other = sorted(key for key in there.keys() | identity.keys() if there.get(key) != identity.get(key))
    if other:
        raise DataError(
            f"{path.parent} holds another run (not the same {', '.join(other)}): "
            "choose another --out or delete it."
        )


def _rows(path: Path) -> list[dict]:
    """All whole lines; a run that was killed may have left half of one."""
    content = path.read_bytes()
    try:
        rows = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        if not all(isinstance(row, dict) and isinstance(row.get("index"), int) for row in rows):
            raise ValueError("a line of another program")
        return rows
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: delete it, and its episodes are run again.") from error


def _cut(path: Path) -> None:
    """Take half a line away; only the host that appends to the file may do this."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """All items, or `limit` of them spread evenly over the list.

    Raises:
        ConfigError: `limit` below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} must be at least 1.")
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def list_hash(items: Sequence) -> str:
    """Which list of items a run goes through: SHA-256 of it as JSON."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def model_identity(bundle: Bundle) -> dict:
    """Which weights, for `identity` and results."""
    file_hash = None
    if bundle.path is not None:
        with bundle.path.open("rb") as file:
            file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": bundle.name, "sha256": file_hash}


def in_domain(bundle: Bundle, pictures: str) -> bool | None:
    """Whether the model was trained on the benchmark's data set; None where its file does not say.

    A model file says it by `notes["trained_on"]`, a list of data sets.
    """
    trained_on = bundle.notes.get("trained_on")
    return None if trained_on is None else pictures in trained_on


def environment() -> dict:
    """Where a run took place, for results."""
    return {
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
    }


def percent(value: float) -> float | None:
    """0..1 -> per cent in hundredths; NaN -> None, which JSON has."""
    return None if np.isnan(value) else round(100 * float(value), 2)
