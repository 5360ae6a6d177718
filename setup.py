"""What pyproject.toml cannot say: MapLibre GL, which the page of fctl-view needs, is fetched when fctl is built."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

URL = "https://registry.npmjs.org/maplibre-gl/-/maplibre-gl-5.24.1.tgz"
SHA512 = "HyiYBwtsbk3L1n1EPLJHWqdoyMiF80n7tEYXFZyu2m1TjvaNx6KMLiFeDdmszt1/mq2zvsR1TJuX/NMu5BonXQ=="
FOLDER = Path(__file__).parent / "runtime" / "view" / "static" / "vendor"
STAMP = FOLDER / "integrity"
MEMBERS = {
    "maplibre-gl.js": "package/dist/maplibre-gl.js",
    "maplibre-gl.css": "package/dist/maplibre-gl.css",
    "LICENSE.txt": "package/LICENSE.txt",
}


def fetch() -> None:
    """Put MapLibre GL into the package, unless this version is there already.

    Without a network the build goes on, and fctl-view says what is missing. Other bytes than the pinned ones end it.
    """
    if STAMP.is_file() and STAMP.read_text() == SHA512:
        return
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            data = response.read()
    except OSError as error:
        print(f"warning: no MapLibre GL, fctl-view will not work: {URL}: {error}", file=sys.stderr)
        return
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        raise SystemExit(f"error: {URL} is not what it was: its SHA-512 differs from the one in setup.py")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name, member in MEMBERS.items():
            file = archive.extractfile(member)
            assert file is not None
            (FOLDER / name).write_bytes(file.read())
    STAMP.write_text(SHA512)


class Build(build_py):
    """Builds the packages, after what they lack was fetched."""

    def finalize_options(self) -> None:
        """Fetch before the files of the package are listed."""
        fetch()
        super().finalize_options()


if __name__ == "__main__":
    setup(cmdclass={"build_py": Build})
