"""What a built data set says of itself, beside what TFDS keeps: `segic_jax.json.gz` in its folder.

It is written last, so that a folder that has it is whole.
"""

import gzip
import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from segic_jax.data.benchmark_spec import Kind
from segic_jax.data.episodes import ClassId
from segic_jax.errors import DataError
from segic_jax.runtime.atomic_write import atomic_write

NAME = "segic_jax.json.gz"
VERSION = "1.0.0"  # of the data sets that this program writes; the folder's name, as TFDS wants it
FORMAT = "segic_jax data set"


@dataclass(frozen=True)
class VideoInfo:
    """One clip."""

    name: str
    frames: list[str]  # stems, in order
    annotations: list[int]  # numbers of the frames with a label map
    required: list[int]
    scored: bool
    palette: list[int] | None  # RGB of each id, flat


@dataclass(frozen=True)
class Info:
    """The data set."""

    benchmark: str
    kind: Kind
    # Of each TFDS split its records in order: an image and the [class, instance] of its masks; or a frame.
    records: dict[str, list]
    class_names: list[tuple[ClassId, str]] | None  # None where the benchmark names none
    sources: dict[str, str]  # each file that it was made from, relative to the root, and its SHA-256
    videos: list[VideoInfo] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """The same content always gives the same bytes."""
        content = json.dumps({"format": FORMAT, "version": VERSION} | asdict(self))
        atomic_write(folder / NAME, gzip.compress(content.encode(), mtime=0))


def find_built(root: Path | str | None) -> Path | None:
    """The folder of the one built data set in `root`: itself, <name>/<version> or <version>; None for none.

    Raises:
        DataError: there are several.
    """
    if root is None:
        return None
    root = Path(root)
    found = [path for pattern in (NAME, f"*/{NAME}", f"*/*/{NAME}") for path in sorted(root.glob(pattern))]
    if len(found) > 1:
        raise DataError(f"{root} holds several data sets: give one of them, such as {found[0].parent}.")
    return found[0].parent if found else None


def read_info(folder: Path) -> Info:
    """Raises DataError where the file is damaged or of another version."""
    path = folder / NAME
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            raise DataError(f"{path} is of another version: build the data set again.")
        videos = [VideoInfo(**one) for one in content.pop("videos")]
        return Info(**content, videos=videos)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise damaged(folder) from error


def damaged(folder: Path) -> DataError:
    """What is said where the file is not as it was written."""
    return DataError(f"{folder / NAME} is damaged: build the data set again.")
