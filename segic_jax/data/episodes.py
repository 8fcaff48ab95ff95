"""Define evaluation episodes, the sources that give them, and lists of them in files.

A list is gzipped JSON lines, of which the first describes it:

    {"format": "segic_jax episodes", "version": 1, "benchmark": "coco20i", "protocol": "matcher", ...}
    [72, "val2014/COCO_val2014_000000507081.jpg", ["val2014/COCO_val2014_000000486122.jpg"]]

A line is [class, target, [references]]. If the benchmark has instances, a fourth entry holds their numbers:
that of the target, then those of the references.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write

FORMAT, VERSION = "segic_jax episodes", 1

ClassId = int | str  # as the benchmark numbers or names its classes


class View(NamedTuple):
    """Name one mask on one image, as the source names them."""

    image_name: str
    class_id: ClassId
    instance: int | None = None  # the object's number; None if the mask is of all objects of the class


class LabelledImage(NamedTuple):
    """Hold the image and the mask of a view."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    mask: Bool[np.ndarray, "height width"]
    ignored: Bool[np.ndarray, "height width"] | None = None  # pixels that no score counts
    note: str = ""  # how a defect of the files was handled, for results and checks


class ObjectMasks(NamedTuple):
    """Hold the objects of a class on an image."""

    masks: Bool[np.ndarray, "objects height width"]
    crowd: list[bool]  # which of them stand for several objects that were not told apart


@dataclass(frozen=True)
class Episode:
    """Ask for a class on the target image, given reference images of it."""

    class_id: ClassId
    target: str
    references: tuple[str, ...]  # an image may occur twice: the field's draws do that
    instances: tuple[int, ...] = ()  # of the target, then of each reference, if the benchmark has them

    @property
    def target_view(self) -> View:
        """Return the target with its true mask."""
        return View(self.target, self.class_id, self.instances[0] if self.instances else None)

    @property
    def reference_views(self) -> tuple[View, ...]:
        """Return the references in order."""
        instances = self.instances[1:] or (None,) * len(self.references)
        return tuple(
            View(image_name, self.class_id, instance)
            for image_name, instance in zip(self.references, instances, strict=True)
        )


@dataclass(frozen=True)
class Manifest:
    """Hold the episodes of one fold of a benchmark, in order."""

    benchmark: str
    protocol: str  # the protocol that draws them
    fold: int
    shots: int
    classes: tuple[ClassId, ...]  # all classes of the fold, also those without an episode
    episodes: tuple[Episode, ...]
    notes: tuple[str, ...] = ()  # files that the draw left out, a sentence each

    @property
    def sha256(self) -> str:
        """Return the hash of the episodes, which identifies them in papers and results."""
        return episodes_hash(self.episodes)

    def write(self, path: Path | str) -> None:
        """Write the list; the same manifest always gives the same bytes.

        Raises:
            DataError: the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "version": VERSION,
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "fold": self.fold,
            "shots": self.shots,
            "classes": self.classes,
            "episodes": len(self.episodes),
            "sha256": self.sha256,
            **({"notes": self.notes} if self.notes else {}),
        }
        lines = [json.dumps(header), *(json.dumps(_row(episode)) for episode in self.episodes)]
        atomic_write(path, gzip.compress("\n".join([*lines, ""]).encode(), mtime=0))


@runtime_checkable
class EpisodeSource(Protocol):
    """Give evaluation episodes; sources are pickled into worker processes: keep open files and caches out."""

    @property
    def name(self) -> str:
        """Return the benchmark's name, for reports."""
        ...

    def manifest(self, protocol: str, fold: int, shots: int) -> Manifest:
        """Return the episodes of one fold.

        Raises:
            DataError: the benchmark has no such protocol, fold or number of shots.
        """
        ...

    def class_name(self, class_id: ClassId) -> str:
        """Return the name of a class for a text prompt.

        Raises:
            DataError: an unknown class, or a benchmark whose files name no classes.
        """
        ...

    def views(self) -> Iterator[View]:
        """Yield every view in a fixed order, the views of one image next to each other."""
        ...

    def load(self, view: View) -> LabelledImage:
        """Read one image and its mask.

        Raises:
            DataError: a file is missing or damaged, or image and mask differ in size.
        """
        ...


@runtime_checkable
class WithObjects(Protocol):
    """Tell the objects of a class apart, for scores of instances."""

    def objects(self, view: View) -> ObjectMasks:
        """Return the objects on an image whose union is the mask of the view."""
        ...


@runtime_checkable
class OnDisk(Protocol):
    """Name the files that a source reads."""

    def paths(self, view: View) -> tuple[Path, ...]:
        """Return the files that `load` reads for a view; they may be missing."""
        ...


def require_files(source: object, views: Iterable[View]) -> None:
    """Raise DataError if a file of one of these views is missing; sources that are not on disk pass.

    Raises:
        DataError: naming the first missing file.
    """
    if isinstance(source, OnDisk):
        for path in dict.fromkeys(path for view in views for path in source.paths(view)):
            if not path.is_file():
                raise DataError(
                    f"{path} is missing, and an episode needs it: get it, or list other episodes."
                )


def episodes_hash(episodes: Sequence[Episode]) -> str:
    """Return the SHA-256 of `[[class, target, [references]], ...]` as Python's json.dumps writes it."""
    return hashlib.sha256(json.dumps([_row(episode) for episode in episodes]).encode()).hexdigest()


def read_manifest(path: Path | str) -> Manifest:
    """Read a file that `Manifest.write` wrote, gzipped or not.

    Raises:
        DataError: the file is missing, damaged, of another format, or changed since it was written.
    """
    try:
        return parse_manifest(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a list of episodes.") from error


def packaged_manifest(benchmark: str, protocol: str, fold: int, shots: int) -> Manifest | None:
    """Return the list in this package, or None; INSID3 uses Matcher's."""
    drawn_by = {"insid3": "matcher"}.get(protocol, protocol)
    name = f"{benchmark}_{drawn_by}_fold{fold}_{shots}shot.jsonl.gz"
    file = resources.files("segic_jax.data").joinpath("manifests", name)
    return replace(parse_manifest(file.read_bytes(), name), protocol=protocol) if file.is_file() else None


def parse_manifest(content: bytes, name: str) -> Manifest:
    """Parse the content of a list; `name` is for error messages. Raises DataError as `read_manifest`."""
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
        header, *rows = (json.loads(line) for line in text.splitlines())
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise DataError(f"{name} is a list of version {header['version']}; this program reads {VERSION}.")
        episodes = tuple(_episode(*row) for row in rows)
        manifest = Manifest(
            benchmark=header["benchmark"],
            protocol=header["protocol"],
            fold=header["fold"],
            shots=header["shots"],
            classes=tuple(header["classes"]),
            episodes=episodes,
            notes=tuple(map(str, header.get("notes", ()))),
        )
        expected = header.get("sha256", manifest.sha256)
        if type(manifest.fold) is not int or any(len(e.references) != manifest.shots for e in episodes):
            raise ValueError("the first line does not fit the list")
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is not a list of episodes: make one with `segic episodes make`.") from error
    if manifest.sha256 != expected:
        raise DataError(
            f"{name} does not have the episodes that its first line describes: get it again, or remove "
            "sha256 from that line if you changed the list yourself."
        )
    return manifest


def _episode(class_id, target, references, instances=()) -> Episode:
    texts = [target, *references]
    if (
        type(class_id) not in (int, str)
        or type(references) is not list
        or any(type(text) is not str or not text for text in texts)
        or any(type(number) is not int for number in instances)
        or len(instances) not in (0, len(texts))
    ):
        raise ValueError("not [class, target, [references], [instances]]")
    return Episode(class_id, target, tuple(references), tuple(instances))


def _row(episode: Episode) -> list:
    row = [episode.class_id, episode.target, list(episode.references)]
    return [*row, list(episode.instances)] if episode.instances else row
