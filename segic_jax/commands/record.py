"""JSON lines of a video, one for each object on each frame; a stopped run goes on from them."""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import UInt16
from pycocotools import mask as coco
from safetensors import SafetensorError

from segic_jax.inference.result import Result
from segic_jax.inference.tracker import TrackerState
from segic_jax.runtime.atomic_write import atomic_write, part_path

Labels = UInt16[np.ndarray, "height width"]  # 0, or an object's number


class Judged(NamedTuple):
    """One object on one frame."""

    present: bool
    presence: float  # 0..1
    score: float  # mean probability inside the mask; 0 for an empty one


class Seen(NamedTuple):
    """One frame."""

    labels: Labels
    judged: list[Judged]  # of the objects in their order


def seen_of(result: Result, numbers: Mapping[int, str]) -> Seen:
    """From a result whose classes are the objects."""
    labels = np.array([0, *numbers], np.uint16)[result.label_map]
    rows = zip(result.present, result.areas, result.presence, result.scores, strict=True)
    return Seen(
        labels,
        [
            Judged(bool(present and area), round(float(presence), 4), round(float(score), 4))
            for present, area, presence, score in rows
        ],
    )


class Record:
    """NAME.jsonl; while it grows it is NAME.jsonl.part, and NAME.jsonl.memory is what the tracker needs."""

    def __init__(self, out: Path, run: str, numbers: Mapping[int, str]):
        """
        Args:
            out: the video or folder beside which it lies.
            run: a record of another run is begun anew.
            numbers: of the objects, with their names.
        """
        out = out if out.name not in ("", "..") else Path(os.path.abspath(out))
        self.path = out.parent / f"{out.stem or 'video'}.jsonl"
        self._part, self._state = part_path(self.path), self.path.with_name(self.path.name + ".memory")
        self._run, self._numbers = run, numbers
        self.finished = _run_of_first_line(self.path) == run
        self.latest: TrackerState | None = None  # after the last frame
        self.absent: dict[str, list[int]] = {name: [] for name in numbers.values()}  # numbers of frames
        self._length = 0 if self.finished else self._remembered()  # bytes of the part that count
        self.count = 0  # frames

    def before(self) -> Iterator[Seen]:
        """The frames that were recorded by an equal run."""
        source = self.path if self.finished else self._part
        if not self.finished and not self._length:
            return
        with source.open("rb") as file:
            lines = iter(file.readline, b"")
            if not self.finished:
                lines = _until(lines, self._length)
            for _, rows in groupby(map(json.loads, lines), lambda row: row["frame"]):
                yield self._noted(_read(list(rows), self._numbers))

    def add(self, seen: Seen, name: str, latest: TrackerState | None) -> None:
        """The next frame.

        Args:
            name: of the frame.
            latest: what the tracker goes on with; None where it begins anew.

        Raises:
            DataError: the disk refuses.
        """
        rows = _rows(seen, self.count, name, self._numbers, self._run)
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self._part.open("r+b" if self._length else "wb") as file:
            file.seek(self._length)  # what a killed run wrote beyond it is written over
            file.truncate()
            file.write(text)
        self._length += len(text)
        arrays = {} if latest is None else {"latest": latest[0], "predicted": latest[1]}
        note = {"run": self._run, "length": str(self._length)}
        atomic_write(self._state, safetensors.numpy.save(arrays, note))
        self._noted(seen)

    def finish(self) -> None:
        """The record gets its name."""
        if not self.finished and self._length:
            self._part.replace(self.path)
            self._state.unlink(missing_ok=True)
            self.finished = True

    def _noted(self, seen: Seen) -> Seen:
        for name, one in zip(self._numbers.values(), seen.judged, strict=True):
            if not one.present:
                self.absent[name].append(self.count)
        self.count += 1
        return seen

    def _remembered(self) -> int:
        try:
            with safetensors.safe_open(self._state, framework="numpy") as file:
                note = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            length = int(note["length"])
            if note["run"] != self._run or self._part.stat().st_size < length:
                return 0
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return 0
        if arrays:
            self.latest = arrays["latest"], arrays["predicted"]
        return length


def _run_of_first_line(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return json.loads(file.readline())["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _until(lines: Iterator[bytes], length: int) -> Iterator[bytes]:
    read = 0
    for line in lines:
        read += len(line)
        if read > length:
            return
        yield line


def _rows(seen: Seen, frame: int, name: str, numbers: Mapping[int, str], run: str) -> Iterator[dict]:
    for (number, known), judged in zip(numbers.items(), seen.judged, strict=True):
        rle = coco.encode(np.asfortranarray(seen.labels == number, np.uint8))
        x, y, width, height = (int(value) for value in coco.toBbox(rle))
        area = int(coco.area(rle))
        yield {
            "frame": frame,
            "name": name,
            "class": known,
            "number": number,
            **judged._asdict(),
            "area": area,
            "box": [x, y, x + width, y + height] if area else None,
            "segmentation": {"size": list(rle["size"]), "counts": str(rle["counts"], "ascii")},
            "run": run,
        }


def _read(rows: list[dict], numbers: Mapping[int, str]) -> Seen:
    labels = np.zeros(rows[0]["segmentation"]["size"], np.uint16)
    for row, number in zip(rows, numbers, strict=True):
        labels[coco.decode(row["segmentation"]) > 0] = number
    return Seen(labels, [Judged(row["present"], row["presence"], row["score"]) for row in rows])
