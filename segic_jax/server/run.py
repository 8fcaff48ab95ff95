"""Run the service until it is asked to stop; what was accepted is finished first."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from segic_jax.errors import ConfigError
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.limits import Limits
from segic_jax.runtime.listener import LOOPBACK, address, open_listener
from segic_jax.runtime.notices import route_warnings
from segic_jax.server.application import make_app
from segic_jax.server.connections import TimedConnection
from segic_jax.server.task_images import LabelStudio

TOKEN_VARIABLE = "SEGIC_TOKEN"
MIN_TOKEN = 16  # characters
CONNECTIONS = 512  # at once; more are answered with 503
IDLE_SECONDS = 15  # after which a connection without a request is closed


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token of a file, or else of the environment variable SEGIC_TOKEN; None if there is none.

    Raises:
        ConfigError: the file cannot be read, or the token is too short.
    """
    source = TOKEN_VARIABLE if file is None else str(file)
    try:
        token = environment.get(TOKEN_VARIABLE) if file is None else file.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: the token cannot be read ({error}); give a file with one line."
        ) from error
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(
            f"The token of {source} must have at least {MIN_TOKEN} printable ASCII characters: make one with "
            'python -c "import secrets; print(secrets.token_urlsafe())".'
        )
    return token


def require_token(host: str, token: str | None) -> None:
    """Raise ConfigError for an address that other machines reach, without a token."""
    if host not in LOOPBACK and token is None:
        raise ConfigError(
            f"Other machines could reach --host {host}: give a token with --token-file FILE or the "
            f"environment variable {TOKEN_VARIABLE}, or leave --host out."
        )


def serve(
    segmenter: Segmenter,
    folder: Path,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    label_studio: LabelStudio | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, and finish the requests that were accepted.

    Args:
        folder: of the contexts.
        port: 0 for a free port.
        token: that requests must bring; None for none, on this machine only.
        label_studio: the only machine that is asked for images of tasks; None for none.

    Raises:
        ConfigError: the address cannot be used, or needs a token.
    """
    require_token(host, token)
    route_warnings()
    listener = open_listener("The service", host, port)
    hosts = ["127.0.0.1", "localhost", "[::1]"] if host in LOOPBACK else None
    app = make_app(segmenter, folder, limits, label_studio=label_studio, token=token, hosts=hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        http=TimedConnection,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=limits.seconds + limits.upload_seconds,
        server_header=False,
    )
    # uvicorn raises the signal again once it has stopped; a graceful stop is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(f"The service is at {address(host, listener)} (press Ctrl-C to stop).", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
