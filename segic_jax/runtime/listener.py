"""Open the socket that a server listens on."""

import socket

from segic_jax.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_listener(what: str, host: str, port: int) -> socket.socket:
    """Listen at an address; requests wait until the server is ready.

    Args:
        what: names the server in messages, such as "The page".
        port: 0 for a free port.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"{what} cannot be served at {host}, port {port} ({error}); choose another --port or --host."
        ) from error
    return listener


def address(host: str, listener: socket.socket) -> str:
    """Return the address of a server as a browser takes it."""
    return f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
