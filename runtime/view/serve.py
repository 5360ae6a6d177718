"""Running the server, and showing it."""

from __future__ import annotations

import errno
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from ..errors import InputError
from ..raster.cache import decoded_cache
from .app import Exhibit, app_of

PORT = 8790
"""Where the server listens unless it is told otherwise, or that is taken."""

_DECODED = 64 << 20  # bytes of pixels that GDAL keeps
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(
    exhibit: Exhibit,
    host: str,
    port: int | None,
    *,
    opens: bool,
    tell: Callable[[str], None],
    ended: threading.Event | None = None,
) -> None:
    """Show rasters until Ctrl-C.

    Args:
        exhibit: What is shown.
        host: The address to listen at, such as 127.0.0.1.
        port: The port; None takes 8790, or a free one where that is taken. 0 takes a free one.
        opens: Whether the browser of this machine is opened.
        tell: Is given the page's address once it can be opened.
        ended: What ends it too, once it is set; None for Ctrl-C alone.

    Raises:
        InputError: Nobody can listen there.
        FctlError: A part of the page is missing.
    """
    app = app_of(exhibit, host)
    with _listening(host, port) as listening, decoded_cache(_DECODED):
        address = _address(host, listening.getsockname()[1])
        tell(address)
        if opens:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
        )
        server = uvicorn.Server(config)
        if ended:
            threading.Thread(target=_end, args=(server, ended), daemon=True).start()
        server.run(sockets=[listening])


def _end(server: uvicorn.Server, ended: threading.Event) -> None:
    """End a server once something is over."""
    ended.wait()
    server.should_exit = True


def _address(host: str, port: int) -> str:
    """The address of the page, as a browser takes it."""
    name = _WILDCARDS.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens at an address."""
    try:
        return _bound(host, PORT if port is None else port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or port is not None:
            reason = error.strerror or str(error)
            raise InputError(
                f"cannot listen at {host}, port {port or PORT}: {reason}", remedy="name another `port` or `host`"
            ) from None
    return _bound(host, 0)


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(128)  # a browser that is faster than the server waits
    except OSError:
        found.close()
        raise
    return found
