"""An HTTP server of one folder that fails as it is asked: ``python bad_server.py FOLDER`` prints its port.

It is a process of its own because rasterio holds Python's lock while it opens a file. The first part of a path is how
the server fails, as in http://127.0.0.1:1234/500/big.tif; all ways but "down" and "flaky" begin 20,000 bytes into it.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_FROM = 20_000  # bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests = 0

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        _, way, name, *_ = [*self.path.partition("?")[0].split("/"), ""]
        file = Path(sys.argv[1]) / name
        if not name or not file.is_file():
            return self._fail(404)
        data = file.read_bytes()
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(len(data), int(asked[2]) + 1 if asked and asked[2] else len(data))
        _Handler.requests += 1
        late = stop > _FROM and body
        if way == "down" or (way == "500" and late) or (way == "flaky" and _Handler.requests % 3 == 0):
            return self._fail(500)
        part = data[start:stop]
        if way == "short" and late:  # an answer that is complete, but holds half of what was asked
            part = part[: len(part) // 2]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body and way == "drop" and late:  # the connection breaks off
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(part)
        return None

    def _fail(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
