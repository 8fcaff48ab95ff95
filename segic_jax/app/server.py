"""Serve the page: one model for all visitors, one folder for all files, nothing from other machines."""

import signal
import sys
import warnings
from pathlib import Path

import fastapi
import gradio as gr
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segic_jax.app import layout, uploads
from segic_jax.app.handlers import Page
from segic_jax.app.segmenters import Segmenters
from segic_jax.runtime.listener import LOOPBACK, address, open_listener
from segic_jax.runtime.notices import route_warnings

HERE = Path(__file__).parent
MAX_QUEUE = 32  # events that wait for the model
MAX_SESSIONS = 50  # in memory; the oldest is dropped first
CLEAN_SECONDS = (600, 3600)  # the interval of cleaning, and the age at which files are deleted
UPLOAD_BYTES = (uploads.MAX_TARGETS * uploads.MAX_MEGABYTES + 1) * 2**20  # of a request with files
REQUEST_BYTES = 40 * 2**20  # of any other request, which may hold painted masks
HEADERS = {
    # The browser refuses to fetch anything from other machines, and other sites cannot frame the page, but
    # for the one of --embed-in.
    # Gradio compiles the JavaScript of events in the page, hence unsafe-eval.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors {embed_in}",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def serve(
    segmenters: Segmenters, header: str, host: str, port: int, folder: Path, embed_in: str | None = None
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        header: HTML above the steps.
        port: 0 for a free port.
        folder: gets everything that is written; GRADIO_TEMP_DIR must name it.
        embed_in: the site that may show the page inside its own; None for none.

    Raises:
        ConfigError: the address cannot be used.
    """
    route_warnings()
    # Gradio uses a name that newer versions of Starlette deprecate: one warning for every event.
    warnings.filterwarnings(
        "ignore", message="'HTTP_422_UNPROCESSABLE_ENTITY' is deprecated", module="gradio"
    )
    listener = open_listener("The page", host, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # uvicorn re-raises it once stopped
    app = application(segmenters, header, host, folder, embed_in)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    print(f"The page is at {address(host, listener)} (press Ctrl-C to stop).", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def application(
    segmenters: Segmenters, header: str, host: str, folder: Path, embed_in: str | None = None
) -> fastapi.FastAPI:
    """Build the page as an ASGI application that writes only in `folder`."""
    with Blocks(title="segic", analytics_enabled=False, delete_cache=CLEAN_SECONDS) as blocks:
        gr.HTML(header, padding=False)
        Page(segmenters, folder)
    blocks.state_session_capacity = MAX_SESSIONS
    blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=4)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, embed_in=embed_in)
    if host in LOOPBACK:  # refuses other sites whose name resolves to here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    # Without this, as in a mounted application, Gradio lets a request name any file of the machine as its
    # upload (`processing_utils._check_allowed`).
    blocks.has_launched = True
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        max_file_size=uploads.MAX_MEGABYTES * 2**20,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=layout.THEME,
        css_paths=HERE / "style.css",
        head=f"<script>{(HERE / 'page.js').read_text('utf-8')}</script>",
    )


class Blocks(gr.Blocks):
    """Report requests whose values do not fit their event; Gradio alone would print a traceback."""

    async def preprocess_data(self, *args, **kwargs) -> list:
        """Return the values of an event's components.

        Raises:
            gr.Error: a value is missing, or does not fit its component.
        """
        try:
            return await super().preprocess_data(*args, **kwargs)
        except Exception as error:
            raise gr.Error(
                "The server cannot read this request: reload the page.", print_exception=False
            ) from error


class RequestGuard:
    """Limit the size of requests, and send HEADERS with every response."""

    def __init__(self, app: ASGIApp, embed_in: str | None = None):
        self.app = app
        site = embed_in or "'none'"
        self._headers = [
            (key.encode(), value.format(embed_in=site).encode()) for key, value in HEADERS.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as an ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        if (refusal := _refusal(scope)) is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return PlainTextResponse("A request must have a Content-Length.", 411)
    limit = UPLOAD_BYTES if scope["path"].endswith("/upload") else REQUEST_BYTES
    if int(length) > limit:
        return PlainTextResponse(f"A request may have at most {limit // 2**20} MB.", 413)
    return None
