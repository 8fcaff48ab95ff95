"""Targets on the command line: which files they are, and what their results are called."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segic_jax.errors import InputError
from segic_jax.runtime import progress

if TYPE_CHECKING:
    from segic_jax.errors import DataError
    from segic_jax.inference.example import ImageLike


def named_targets(targets: Sequence[Path]) -> dict[str, Path]:
    """Name of the results -> file, without repetitions; a folder stands for its images, by name.

    A result is called as its file is, without the ending; where that fits several files, with it, and where
    that fits several, too, with as many folders before it as it takes (a_1.jpg and b_1.jpg).

    Raises:
        InputError: there is no target; a folder without images.
    """
    from segic_jax.inference.segmenter import listed

    if not targets:
        raise InputError("Give at least one target: an image, or a folder of images.")
    paths = dict.fromkeys(Path(path) for target in targets for path in listed(target))
    same = {Path(os.path.abspath(path)): path for path in reversed(paths)}
    files = [path for path in paths if same[Path(os.path.abspath(path))] == path]
    names = [path.stem for path in files]
    for depth in range(1, 100):
        # Without upper and lower case: some disks do not know them.
        folded = [name.lower() for name in names]
        count = Counter(folded)
        clashing = [i for i, name in enumerate(folded) if count[name] > 1]
        if not clashing:
            break
        for i in clashing:
            names[i] = "_".join(Path(os.path.abspath(files[i])).parts[-depth:]).replace(os.sep, "")
    return dict(zip(names, files, strict=True))


class Refused:
    """Says which targets cannot be read, and remembers them."""

    def __init__(self):
        self.said: dict[str, str] = {}  # by target

    def __call__(self, target: "ImageLike", error: "DataError") -> None:
        self.said[str(target)] = str(error)
        progress.write_line(error, sys.stderr)


def require_no_file(path: Path) -> None:
    """Before long work: raise InputError where a file is in a folder's place."""
    if next(one for one in (path, *path.absolute().parents) if one.exists()).is_file():
        raise InputError(f"{path} is a file, or below one: give --out a folder.")


def require_apart(written: Iterable[Path], read: Iterable[Path | str]) -> None:
    """Before long work: raise InputError where a result would replace a file that it is made from."""
    originals = {os.path.realpath(path) for path in read}
    for path in written:
        if os.path.realpath(path) in originals:
            raise InputError(f"{path} would be written over, and it is read: give another --out.")


def make_folder(path: Path) -> None:
    """With its parents.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}): give another --out.") from error
