"""Answer every error with a sentence."""

import logging
from collections.abc import Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from segic_jax.errors import BusyError, InputError

_LOG = logging.getLogger("segic_jax.server")


def handle_errors(app: fastapi.FastAPI) -> None:
    """Answer every error with a sentence."""

    def respond(status: int, sentence: Callable[[Any], str], headers: dict[str, str] | None = None):
        async def handle(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"detail": sentence(error)}, status, headers)

        return handle

    async def handle_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        short = {
            404: "There is no such address: /docs lists all.",
            405: "This address does not take this method: /docs lists them.",
        }
        sentence = error.detail if " " in error.detail.strip() and error.detail not in _PHRASES else ""
        return JSONResponse(
            {"detail": sentence or short.get(error.status_code, error.detail)},
            error.status_code,
            error.headers,
        )

    async def handle_bug(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "The service failed: its log says why."}, 500)

    app.add_exception_handler(InputError, respond(422, str))
    app.add_exception_handler(BusyError, respond(429, str, {"Retry-After": "1"}))
    app.add_exception_handler(RequestValidationError, respond(422, _describe_invalid))
    app.add_exception_handler(HTTPException, handle_http)
    app.add_exception_handler(Exception, handle_bug)


_PHRASES = ("Not Found", "Method Not Allowed")


def _describe_invalid(error: RequestValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, item['loc'][1:])) or 'content'}: {item['msg']}" for item in error.errors()
    )
    return f"The request cannot be used: {'; '.join(problems)}."
