"""Check requests before their content is read, time them, and count them."""

import asyncio
import base64
import hmac
import re
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segic_jax.runtime.limits import Limits
from segic_jax.server.metrics import Metrics

OPEN = ("/health", "/docs", "/openapi.json")  # paths that need no token
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Guard:
    """Refuse requests without the token or a length, too large ones, and those that arrive too slowly."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        token: str | None,
        metrics: Metrics,
        hosts: Sequence[str] | None = None,
    ):
        """Guard an application.

        Args:
            hosts: names that requests may give this machine, so that other sites whose name resolves to here
                are refused; None for any.
        """
        self._app, self._limits, self._metrics, self._hosts = app, limits, metrics, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is None:
                await self._app(scope, self._in_time(receive), send_and_note)
            else:
                await refusal(scope, receive, send_and_note)
        finally:
            self._metrics.count_request(scope, status, time.perf_counter() - begin)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = dict(scope["headers"])
        host = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            sentence = f"The header Host must name this machine: {' or '.join(self._hosts)}."
            return JSONResponse({"detail": sentence}, 400)
        given = _given_token(headers.get(b"authorization", b""))
        if scope["path"] not in OPEN and not hmac.compare_digest(given, self._token or given):
            sentence = "The token is missing or wrong: send the header Authorization: Bearer TOKEN."
            return JSONResponse({"detail": sentence}, 401, {"WWW-Authenticate": "Bearer"})
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE") and b"transfer-encoding" not in headers:
            limit, length = 0, headers.get(b"content-length", b"0")
        else:
            limit, length = self._limits.request_bytes, headers.get(b"content-length", b"")
        if not length.isdigit():
            return JSONResponse({"detail": "A request needs the header Content-Length."}, 411)
        if int(length[:20]) > limit:
            most = f"at most {limit >> 20} MB: send less" if limit else "no content: leave it out"
            sentence = f"A request of this kind may have {most}."
            return JSONResponse({"detail": sentence}, 413)
        return None

    def _in_time(self, receive: Receive) -> Receive:
        """Return a `receive` that raises when the content has not arrived in time."""
        end, complete = time.monotonic() + self._limits.upload_seconds, False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0))
            except TimeoutError as error:
                sentence = (
                    f"The request took more than {self._limits.upload_seconds} s to arrive: send it again."
                )
                raise HTTPException(408, sentence, {"Connection": "close"}) from error
            complete = not message.get("more_body", False)
            return message

        return receive_in_time


def _given_token(authorization: bytes) -> bytes:
    """Return the token of a header: a bearer token, or the password beside any name of a user."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
