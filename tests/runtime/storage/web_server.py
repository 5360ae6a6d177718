"""An HTTP server of one folder that answers ranges: ``python web_server.py FOLDER`` prints its port.

It says when a file was changed, as Python's own server does, and the size and the time as its ETag. It is a process of
its own because rasterio holds Python's lock while it opens a file.
"""

from __future__ import annotations

import re
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = Path(sys.argv[1]) / self.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, state = file.read_bytes(), file.stat()
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(len(data), int(asked[2]) + 1 if asked and asked[2] else len(data))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", self.date_time_string(int(state.st_mtime)))
        self.send_header("ETag", f'"{state.st_size}-{state.st_mtime_ns}"')
        self.end_headers()
        if body:
            self.wfile.write(data[start:stop])


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
