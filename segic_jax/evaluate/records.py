"""What a run has finished, on disk: one JSON line an item, so that a killed run goes on where it was.

<out>/run.json                     what the run is; another run may not write into the same folder
<out>/parts/<host>.jsonl           rows as they come; every one has an "index"
"""

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from segic_jax import distributed
from segic_jax.data.episodes import DataError
from segic_jax.weights.bundle import Bundle

LIBRARIES = ("segic_jax", "jax", "jaxlib", "flax", "numpy", "opencv-python-headless")


class Records:
    """The rows of one run, of all hosts."""

    def __init__(self, out: Path, identity: dict):
        """Read what is there already. Every host must make it at the same time.

        Args:
            identity: what the rows depend on; JSON values only.

        Raises:
            DataError: the folder holds another run, or a damaged one.
        """
        self._folder = out / "parts"
        self._folder.mkdir(parents=True, exist_ok=True)
        identity = json.loads(json.dumps(identity))
        if distributed.is_main():
            _claim(out / "run.json", identity)
        distributed.barrier("run.json")
        own = {row["index"]: row for path in sorted(self._folder.glob("*.jsonl")) for row in _rows(path)}
        # Hosts may see the files of the others or not: put everything together once.
        self.done = {row["index"]: row for rows in distributed.gather_json([*own.values()]) for row in rows}
        self._file = (self._folder / f"{jax.process_index():05}.jsonl").open("a", encoding="utf-8")

    def add(self, rows: Iterable[dict]) -> None:
        """Rows of this host, on disk when this returns."""
        for row in rows:
            self.done[row["index"]] = row
            self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def gathered(self) -> dict[int, dict]:
        """All hosts' rows by index, in rising order; every host must call it."""
        rows = [row for part in distributed.gather_json([*self.done.values()]) for row in part]
        return {row["index"]: row for row in sorted(rows, key=lambda row: row["index"])}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _claim(path: Path, identity: dict) -> None:
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(identity, indent=2) + "\n")
        part.replace(path)
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged: delete its folder or choose another --out.") from error
    other = sorted(key for key in there.keys() | identity.keys() if there.get(key) != identity.get(key))
    if other:
        raise DataError(
            f"{path.parent} holds another run (not the same {', '.join(other)}): "
            "choose another --out or delete it."
        )


def _rows(path: Path) -> list[dict]:
    """All whole lines; a run that was killed may have left half of one, which is cut away."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged: delete it, and its episodes are run again.") from error


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
