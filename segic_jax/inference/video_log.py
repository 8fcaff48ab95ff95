"""Log the objects on each frame of a video as JSON lines; a stopped run continues from the log."""

import json
import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.numpy
from jaxtyping import Shaped
from pycocotools import mask as coco
from safetensors import SafetensorError

from segic_jax.data import masks
from segic_jax.inference.result import Result
from segic_jax.inference.tracker import TrackerState
from segic_jax.runtime.atomic_write import atomic_write, part_path


class ObjectRecord(NamedTuple):
    """Hold what is known about one object on one frame."""

    present: bool
    presence: float  # 0..1
    score: float  # mean probability inside the mask; 0 for an empty one


class FrameRecord(NamedTuple):
    """Hold what is known about one frame."""

    labels: Shaped[np.ndarray, "height width"]  # whole numbers: 0, or an object's number
    objects: list[ObjectRecord]  # in their order


def frame_record(result: Result, objects: Mapping[int, str]) -> FrameRecord:
    """Make the record of a result whose classes are the objects, given by their numbers."""
    labels = np.array([0, *objects], np.uint16)[result.label_map]
    rows = zip(result.present, result.presence, result.scores, strict=True)
    return FrameRecord(
        labels,
        [
            ObjectRecord(bool(present), round(float(presence), 4), round(float(score), 4))
            for present, presence, score in rows
        ],
    )


class VideoLog:
    """Write OUT.jsonl, which is OUT.jsonl.part until it is complete.

    Until then OUT.jsonl.memory holds the tracker's state after the last frame.
    """

    def __init__(self, output: Path, run: str, objects: Mapping[int, str]):
        """Open the log of a run, or begin a new one where it belongs to another run.

        Args:
            output: the video or folder beside which the log is written.
            run: the run's id.
            objects: names of the objects by their numbers.
        """
        output = output if output.name not in ("", "..") else Path(os.path.abspath(output))
        self.path = output.parent / f"{output.name or 'video'}.jsonl"
        self._part, self._memory = part_path(self.path), self.path.with_name(self.path.name + ".memory")
        self._run, self._objects = run, objects
        self.finished = _run_of_first_line(self.path) == run
        self.state: TrackerState | None = None  # after the last frame
        self.absent: dict[str, list[int]] = {name: [] for name in objects.values()}  # numbers of frames
        self.emptied: dict[str, list[int]] = {
            name: [] for name in objects.values()
        }  # present without a pixel
        self._length = 0 if self.finished else self._read_memory()  # bytes of the part that are valid
        self.count = 0  # frames

    def replay(self) -> Iterator[FrameRecord]:
        """Yield the frames that an equal run has logged, and count them."""
        if not self.finished and not self._length:
            return
        with (self.path if self.finished else self._part).open("rb") as file:
            lines = iter(file.readline, b"")
            if not self.finished:
                lines = _first_bytes(lines, self._length)
            for _, rows in groupby(map(json.loads, lines), lambda row: row["frame"]):
                record = _from_rows(list(rows), self._objects)
                self._count(record)
                yield record

    def add(self, record: FrameRecord, name: str, time: float, state: TrackerState | None) -> None:
        """Append the next frame.

        Args:
            name: of the frame.
            time: when it is shown, in seconds.
            state: the tracker's after this frame; None at its start.

        Raises:
            DataError: the disk is full or fails.
        """
        rows = _to_rows(record, self.count, name, time, self._objects, self._run)
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self._part.open("r+b" if self._length else "wb") as file:
            file.seek(self._length)  # a killed run may have written more
            file.truncate()
            file.write(text)
        self._length += len(text)
        arrays = {} if state is None else {"latest": state[0], "predicted": state[1]}
        metadata = {"run": self._run, "length": str(self._length)}
        atomic_write(self._memory, safetensors.numpy.save(arrays, metadata))
        self._count(record)

    def finish(self) -> None:
        """Give the complete log its name."""
        if not self.finished and self._length:
            self._part.replace(self.path)
            self._memory.unlink(missing_ok=True)
            self.finished = True

    def _count(self, record: FrameRecord) -> None:
        for (number, name), state in zip(self._objects.items(), record.objects, strict=True):
            if not state.present:
                self.absent[name].append(self.count)
            elif not (record.labels == number).any():
                self.emptied[name].append(self.count)
        self.count += 1

    def _read_memory(self) -> int:
        """Restore the state of an equal run, and return how many bytes of its log are valid."""
        try:
            with safetensors.safe_open(self._memory, framework="numpy") as file:
                metadata = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            length = int(metadata["length"])
            if metadata["run"] != self._run or self._part.stat().st_size < length:
                return 0
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return 0
        if arrays:
            self.state = arrays["latest"], arrays["predicted"]
        return length


def _run_of_first_line(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return json.loads(file.readline())["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_bytes(lines: Iterator[bytes], length: int) -> Iterator[bytes]:
    """Yield the lines within the first `length` bytes."""
    read = 0
    for line in lines:
        read += len(line)
        if read > length:
            return
        yield line


def _to_rows(
    record: FrameRecord, frame: int, name: str, time: float, objects: Mapping[int, str], run: str
) -> Iterator[dict]:
    for (number, class_name), state in zip(objects.items(), record.objects, strict=True):
        mask = record.labels == number
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        yield {
            "frame": frame,
            "name": name,
            "time": round(time, 3),
            "class": class_name,
            "number": number,
            **state._asdict(),
            "area": int(mask.sum()),
            "box": [x, y, x + width, y + height] if width else None,
            "segmentation": masks.encode(mask),
            "run": run,
        }


def _from_rows(rows: list[dict], objects: Mapping[int, str]) -> FrameRecord:
    labels = np.zeros(rows[0]["segmentation"]["size"], np.uint16)
    for row, number in zip(rows, objects, strict=True):
        labels[coco.decode(row["segmentation"]) > 0] = number
    return FrameRecord(labels, [ObjectRecord(row["present"], row["presence"], row["score"]) for row in rows])
