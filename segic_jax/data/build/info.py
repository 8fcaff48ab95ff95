"""Describe a built data set in `segic_jax.json.gz` in its folder, beside the files of TFDS.

The file is written last: a folder that has it is complete.
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
VERSION = "1.0.0"  # of the data sets that this program writes, and the folder's name, as TFDS requires
FORMAT = "segic_jax data set"


@dataclass(frozen=True)
class VideoInfo:
    """Describe one clip."""

    name: str
    frames: list[str]  # stems, in order
    annotations: list[int]  # numbers of the frames with a label map
    required: list[int]  # numbers of the frames that a benchmark's server requires
    scored: bool
    palette: list[int] | None  # RGB of each id, flat
    notes: list[str] = field(default_factory=list)  # as in data.video.Clip


@dataclass(frozen=True)
class DataSetInfo:
    """Describe a data set; the field names are part of the file format."""

    benchmark: str
    kind: Kind
    # By TFDS split, in order: [image name, [[class, instance] of each mask]] or [video, frame].
    records: dict[str, list]
    class_names: list[tuple[ClassId, str]] | None  # None if the benchmark names no classes
    sources: dict[str, str]  # each file that it was made from, relative to the root, and its SHA-256
    videos: list[VideoInfo] = field(default_factory=list)
    # How defects of files were handled: [record, mask or None for all, sentence], by TFDS split.
    notes: dict[str, list] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # sentences about videos that are not in it

    def write(self, folder: Path) -> None:
        """Write the file; the same content always gives the same bytes."""
        content = json.dumps({"format": FORMAT, "version": VERSION} | asdict(self))
        atomic_write(folder / NAME, gzip.compress(content.encode(), mtime=0))


def find_built(root: Path | str | None) -> Path | None:
    """Return the folder of the one built data set in `root`; None if there is none.

    The folder is `root` itself, <name>/<version> or <version>.

    Raises:
        DataError: there are several data sets.
    """
    if root is None:
        return None
    root = Path(root)
    paths = [path for pattern in (NAME, f"*/{NAME}", f"*/*/{NAME}") for path in sorted(root.glob(pattern))]
    if len(paths) > 1:
        raise DataError(f"{root} holds several data sets: give one of them, such as {paths[0].parent}.")
    return paths[0].parent if paths else None


def read_info(folder: Path) -> DataSetInfo:
    """Read the description of a data set.

    Raises:
        DataError: the file is damaged or of another version.
    """
    path = folder / NAME
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            raise DataError(f"{path} is of another version: build the data set again.")
        videos = [VideoInfo(**video) for video in content.pop("videos")]
        names = content.pop("class_names")
        class_names = None if names is None else [(class_id, name) for class_id, name in names]
        return DataSetInfo(**content, class_names=class_names, videos=videos)
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
    """Return the error for a data set whose description is not as it was written."""
    return DataError(f"{folder / NAME} is damaged: build the data set again.")
