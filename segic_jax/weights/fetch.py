"""Known weights: a list of them, their download, and where the converted files lie.

`fetch` downloads through huggingface_hub (its own cache, resume, HF_ENDPOINT and HF_HUB_OFFLINE apply),
checks the hashes, converts, and keeps CACHE/NAME.safetensors. `find` turns what a user wrote into a file.
"""

import errno
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from segic_jax.config import cache_folder
from segic_jax.errors import FetchError
from segic_jax.runtime.atomic_write import atomic_path, require_path
from segic_jax.weights.known import KNOWN, KnownFile, KnownWeights


class Row(NamedTuple):
    """What `segic weights list` says about known weights."""

    name: str
    what: str
    size: int  # bytes to download, about
    licence: str
    source: str
    path: Path | None  # of the converted file, if it is here


def listed(*, cache: Path | None = None) -> list[Row]:
    """All known weights."""
    folder = cache or cache_folder()
    return [
        Row(
            weights.name,
            weights.what,
            weights.size,
            weights.licence,
            weights.source,
            stored if (stored := _stored(weights, folder)).is_file() else None,
        )
        for weights in KNOWN.values()
    ]


def table() -> str:
    """`listed` as text, one line each."""
    lines = [("name", "what", "download", "licence", "here", "source")]
    lines += [
        (row.name, row.what, f"{_bytes(row.size):>7}", row.licence, "yes" if row.path else "no", row.source)
        for row in listed()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in [*text, "", f"Converted files lie in {cache_folder()}."])


def find(name_or_path: str | Path) -> Path:
    """The file to read: an existing path, else known weights in the cache; "" is the shipped model.

    Raises:
        FetchError: it is neither; the message has the command that gets it.
    """
    if not str(name_or_path):
        from segic_jax.weights.bundle import SHIPPED

        return SHIPPED
    path = require_path(name_or_path, FetchError).expanduser()
    if path.exists():
        return path
    if (weights := KNOWN.get(str(name_or_path))) is None:
        raise FetchError(
            f"{name_or_path}: there is no such file, and no known weights have that name "
            "(`segic weights list` shows them)."
        )
    stored = _stored(weights, cache_folder())
    if not stored.is_file():
        raise FetchError(
            f"{weights.name} is not here yet: `segic weights fetch {weights.name}` downloads "
            f"{_bytes(weights.size)}. {_by_hand(weights, stored)}"
        )
    return stored


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """Download known weights, check and convert them; returns at once if that was done before.

    Args:
        name: a name of `listed`. Weights that are joined of others use those that the cache holds, and
            download the rest.
        cache: folder of the converted files, `cache_folder()` if None.

    Raises:
        FetchError: unknown name, no network, refused, wrong hash, disk full; with what to do about it.
        InputError: the downloaded file is not what it should be.
    """
    if name not in KNOWN:
        raise FetchError(f"{name}: no known weights have that name; known are {', '.join(KNOWN)}.")
    weights = KNOWN[name]
    folder = Path(cache) if cache else cache_folder()
    stored = _stored(weights, folder)
    if _parameters(stored) is not None:
        return stored
    sources = [
        source
        for part in (KNOWN[other] for other in weights.parts or (name,))
        for source in _sources(part, _stored(part, folder))
    ]

    from segic_jax.weights.convert import convert

    def no_room(message: str) -> FetchError:
        room = _bytes(weights.parameters * 4)
        return FetchError(f"{message[:-1]}; free {room} there, or set SEGIC_CACHE to another folder.")

    with atomic_path(stored, no_room, keep_suffix=True) as fresh:
        folder.mkdir(parents=True, exist_ok=True)
        convert(sources, fresh)
        if (parameters := _parameters(fresh)) != weights.parameters:
            raise FetchError(
                f"{name}: {weights.source} has {parameters:,} parameters instead of {weights.parameters:,}; "
                "these are other weights than those known under this name."
            )
    return stored


def _stored(weights: KnownWeights, folder: Path) -> Path:
    return folder / f"{weights.name}.safetensors"


def _sources(weights: KnownWeights, stored: Path) -> list[Path]:
    """What `convert` reads: the converted file if it is there, else the download."""
    if _parameters(stored) is not None:
        return [stored]
    downloads = [_download(weights, file, stored) for file in weights.files]
    return downloads[:1]  # `convert` finds the others beside it


def _parameters(path: Path) -> int | None:
    """How many parameters a converted file holds; None if it is missing or damaged. Reads the header only.

    Raises:
        FetchError: it is sound, but not of this project, so somebody else put it there.
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
            f"{path} is no converted file: move it away, and run `segic convert FILE --out {path}` on it."
        )
    return parameters


def _download(weights: KnownWeights, file: KnownFile, stored: Path) -> Path:
    """The file in the hub's cache, checked."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchError(
            f"Fetching needs huggingface_hub (`pip install huggingface_hub`). {_by_hand(weights, stored)}"
        ) from error
    try:
        path = Path(huggingface_hub.hf_hub_download(weights.repository, file.name))
    except Exception as error:  # its network library, and so the errors, change between its versions
        raise FetchError(
            f"{weights.name}: {file.name} of {weights.source} could not be downloaded: "
            f"{_reason(error)}. {_by_hand(weights, stored)}"
        ) from error
    _verify(weights, file, path)
    return path


def _reason(error: BaseException) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    causes = list(_causes(error))
    statuses = {getattr(getattr(cause, "response", None), "status_code", None) for cause in causes}
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return f"the disk of {constants.HF_HUB_CACHE} is full (HF_HOME moves it)"
    if statuses & {401, 403}:
        return "the repository is private, gone, or wants a login (`hf auth login`)"
    if 404 in statuses:
        return "the hub does not have it any more"
    if busy := [status for status in statuses if status and status >= 500]:
        return f"the hub answers {busy[0]}; try again later"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids the network, and the hub's cache does not hold it"
    if isinstance(error, LocalEntryNotFoundError):
        return f"no answer from {constants.ENDPOINT}"
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}; the same command goes on where it stopped"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _verify(weights: KnownWeights, file: KnownFile, path: Path) -> None:
    """Compare with the published SHA-256, else with the hash that the hub announced.

    The hub's cache names a blob after it: SHA-256 of large files, git's SHA-1 of small ones. Where the
    file system has no links there is no such name, and only a published SHA-256 is checked.
    """
    blob = path.resolve()
    expected = file.sha256 or blob.name
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with blob.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    elif re.fullmatch(r"[0-9a-f]{40}", expected):
        content = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        return
    if found != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise FetchError(
            f"{weights.name}: {file.name} of {weights.source} has the hash {found} instead of {expected}; "
            "it was deleted. Fetch it again; if it differs again, it is not the published file."
        )


def _by_hand(weights: KnownWeights, stored: Path) -> str:
    """How to do without the download."""
    if weights.parts:
        return f"Its parts are {', '.join(weights.parts)}."
    *names, last = (file.name for file in weights.files)
    source, bring = last, f"{last} from {weights.source}"
    if names:
        source, bring = "FOLDER", f"{', '.join(names)} and {bring} in one FOLDER"
    if weights.mirror:
        bring += f", or {weights.mirror}"
        source = "FOLDER_OR_FILE"
    return f"By hand: bring {bring}, and run `segic convert {source} --out {stored}`."


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
