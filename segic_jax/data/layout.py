"""Find the folders, files and lists of a benchmark on disk."""

from pathlib import Path

from segic_jax.errors import DataError


def find_root(root: Path | str, name: str, content: str, download: str) -> Path:
    """Return the benchmark's own folder: `root`, or the folder `name` in it, whichever holds `content`.

    Raises:
        DataError: neither does.
    """
    root = Path(root)
    for folder in (root / name, root):
        if (folder / content).is_dir():
            return folder
    folder = root / name if (root / name).is_dir() else root
    raise DataError(f"{folder / content} is missing: get it from {download}.")


def find_folder(root: Path, inner: str, marker: str) -> Path:
    """Return `root` / `inner`, or `root` itself or a folder between, whichever holds the folder `marker`.

    Raises:
        DataError: none of them does.
    """
    parts = Path(inner).parts
    for start in range(len(parts) + 1):
        folder = root.joinpath(*parts[start:])
        if (folder / marker).is_dir():
            return folder
    raise DataError(f"{root} has no {inner}/{marker}: give the folder that holds {inner}.")


def list_files(
    folder: Path, ending: str, download: str, *, required: bool = True, left_out: list[str] | None = None
) -> list[str]:
    """Return the names of the files in a folder, sorted, without hidden ones, which macOS leaves behind.

    Args:
        required: refuse a folder that is missing or holds none.
        left_out: gets a sentence about each file whose ending is in capitals, where the official loader skips
            these; None refuses them.

    Raises:
        DataError: there is none, or one whose ending is in capitals.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    names = sorted(
        path.name for path in paths if path.name.lower().endswith(ending) and not path.name.startswith(".")
    )
    if not names and required:
        raise DataError(f"{folder} holds no {f'*{ending}' if ending else 'files'}: get them from {download}.")
    for name in names:
        if not name.endswith(ending):
            problem = f"{folder / name} ends in capitals"
            if left_out is None:
                raise DataError(f"{problem}: rename it to end in {ending}.")
            left_out.append(f"{problem}: it is left out, as officially.")
    return [name for name in names if name.endswith(ending)]


def read_words(path: Path, download: str) -> list[str]:
    """Return the words of a text file, whatever its line ends.

    Raises:
        DataError: the file is missing, empty or not text.
    """
    try:
        words = path.read_text("utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is missing or not text: get it from {download}.") from error
    if not words:
        raise DataError(f"{path} is empty: get it again from {download}.")
    return words
