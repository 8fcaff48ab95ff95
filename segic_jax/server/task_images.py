"""Get the images of Label Studio's tasks: out of the task itself, or from the configured Label Studio only.

A task names its image by an address, which anybody who can write tasks chooses. So the service connects to no
other machine than the one of --label-studio, follows no redirect, uses no proxy, and reads no file.
"""

import base64
import http.client
import json
import math
import re
import time
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from segic_jax.errors import ConfigError, InputError

SECONDS = 10  # for one image
ACCESS_SECONDS = 60  # for which a token is used that was given for a personal access token
_PATHS = re.compile(r"/(data|storage-data)/[^\x00-\x1f\\]+")  # of Label Studio that give files
_SAFE = "/%:@!$&'()*+,;=~-._?"  # characters that an address keeps


class LabelStudio(NamedTuple):
    """Say where Label Studio is, and with which token it gives files."""

    secure: bool
    host: str
    port: int | None
    folder: str  # before its paths; mostly empty
    token: str | None

    @property
    def address(self) -> str:
        """Return the address, as it was given."""
        port = "" if self.port is None else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.secure}://{host}{port}{self.folder}"


def read_address(address: str, token: str | None) -> LabelStudio:
    """Read the address of Label Studio.

    Raises:
        ConfigError: it is none.
    """
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError:
        url = port = None
    if url is None or url.scheme not in ("http", "https") or not url.hostname or url.query or url.username:
        raise ConfigError(
            f"--label-studio {address} is no address: give one such as http://localhost:8080, without a name "
            "or password."
        )
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigError("The token of Label Studio has characters that none has: copy it again.")
    return LabelStudio(url.scheme == "https", url.hostname, port, url.path.rstrip("/"), token)


class TaskImages:
    """Read the images of tasks."""

    def __init__(self, label_studio: LabelStudio | None, megabytes: int):
        """Say where images may come from.

        Args:
            label_studio: the only machine that is asked for images; None for none.
            megabytes: size of an image at most.
        """
        self._from, self._limit = label_studio, megabytes << 20
        self._access = "", -math.inf  # a token, and until when it is used

    def read(self, address: object, what: str) -> bytes:
        """Return the file of an image.

        Args:
            address: a data: URI, or an address of Label Studio.
            what: the task, in messages.

        Raises:
            InputError: the address is another one, or gives no file.
        """
        if not isinstance(address, str) or not address:
            raise InputError(f"{what} has no image: its data must hold the address of one.")
        content = self._read_uri(address, what) if address.startswith("data:") else self._ask(address, what)
        if len(content) > self._limit:
            raise InputError(f"{what}: its image has more than {self._limit >> 20} MB, the limit.")
        return content

    def _read_uri(self, uri: str, what: str) -> bytes:
        head, _, content = uri.partition(",")
        try:
            if not head.endswith(";base64"):
                raise ValueError("another encoding")
            return base64.b64decode(unquote(content), validate=True)
        except ValueError as error:
            raise InputError(f"{what}: its data: URI is damaged: encode the file in base64.") from error

    def _ask(self, address: str, what: str) -> bytes:
        studio, path = self._from, self._local_path(address)
        if studio is None or path is None:
            known = "" if studio is None else f", nor a file of {studio.address}"
            raise InputError(
                f"{what}: its image {address[:80]!r} is no data: URI{known}; start the service with "
                "--label-studio and the address of Label Studio, and upload images there."
            )
        try:
            return self._fetch(studio, path)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            why = f"{path[:80]!r} ({error or type(error).__name__})"
            raise InputError(f"{what}: Label Studio does not give its image {why}.") from error

    def _local_path(self, address: str) -> str | None:
        """Return the path at Label Studio of an address there; None for any other address."""
        studio = self._from
        try:
            url = urlsplit(address)
            where = url.scheme, url.hostname, url.port
        except ValueError:
            return None
        if studio is None or url.username or url.password or not address.isprintable():
            return None
        if url.scheme or url.netloc:
            standard = 443 if studio.secure else 80
            if (where[0], where[1], where[2] or standard) != (
                "https" if studio.secure else "http",
                studio.host,
                studio.port or standard,
            ):
                return None
        path = url.path.removeprefix(studio.folder)
        decoded = unquote(unquote(path))
        if not _PATHS.fullmatch(decoded) or ".." in decoded:
            return None
        query = f"?{quote(url.query, _SAFE)}" if url.query else ""
        return f"{studio.folder}{quote(path, _SAFE)}{query}"

    def _fetch(self, studio: LabelStudio, path: str) -> bytes:
        """Ask Label Studio for a file.

        Raises:
            OSError, HTTPException, ValueError: it does not answer with one in time.
        """
        kind = http.client.HTTPSConnection if studio.secure else http.client.HTTPConnection
        connection = kind(studio.host, studio.port, timeout=SECONDS)
        end = time.monotonic() + SECONDS
        try:
            connection.request("GET", path, headers=self._headers(connection, studio))
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(f"its answer has status {response.status}")
            content = bytearray()
            while len(content) <= self._limit and (part := response.read1(1 << 16)):
                content += part
                if time.monotonic() > end:
                    raise TimeoutError(f"it took more than {SECONDS} s")
            return bytes(content)
        finally:
            connection.close()

    def _headers(self, connection: http.client.HTTPConnection, studio: LabelStudio) -> dict[str, str]:
        """Return the header that lets Label Studio give files.

        A personal access token, which has two dots, is exchanged for one that is valid for some minutes.

        Raises:
            OSError, HTTPException, ValueError: Label Studio does not take the token.
        """
        if studio.token is None:
            return {}
        if studio.token.count(".") != 2:
            return {"Authorization": f"Token {studio.token}"}
        now = time.monotonic()
        if now > self._access[1]:
            content = json.dumps({"refresh": studio.token})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"{studio.folder}/api/token/refresh", content, headers)
            response = connection.getresponse()
            answer = response.read(1 << 16)
            if response.status != 200:
                raise ValueError("it refuses the token of LABEL_STUDIO_API_KEY")
            self._access = str(json.loads(answer)["access"]), now + ACCESS_SECONDS
        return {"Authorization": f"Bearer {self._access[0]}"}
