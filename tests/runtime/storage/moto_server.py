"""An S3 server in memory: ``python moto_server.py GATE`` prints its port.

While the file GATE exists, objects whose key holds its text are not taken: they are refused, or, where the text begins
with "hang ", never answered. It is a process of its own because rasterio holds Python's lock while it opens a file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class _Quiet(WSGIRequestHandler):
    def log_request(self, *arguments: object) -> None:
        """Say nothing."""


class _Gate:
    def __init__(self, gate: Path) -> None:
        self._gate, self._behind = gate, DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        shut = self._gate.read_text() if self._gate.exists() else None
        if shut and environ["REQUEST_METHOD"] == "PUT" and shut.removeprefix("hang ") in environ["PATH_INFO"]:
            while shut.startswith("hang ") and self._gate.exists():
                time.sleep(0.05)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(_DENIED)))])
            return [_DENIED]
        found: Iterable[bytes] = self._behind(environ, start)
        return found


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, _Gate(Path(sys.argv[1])), threaded=True, request_handler=_Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
