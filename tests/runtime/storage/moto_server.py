"""An S3 server in memory: ``python moto_server.py`` prints its port.

It is a process of its own because rasterio holds Python's lock while it opens a file.
"""

from __future__ import annotations

import sys
import time

from moto.server import ThreadedMotoServer

if __name__ == "__main__":
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    while sys.stdin.read(1):  # until whoever started it ends
        time.sleep(0)
