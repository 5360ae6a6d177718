"""The page: one HTML, its modules, and MapLibre GL, which lies in the package since it was built."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..errors import FctlError

STATIC = Path(__file__).parent / "static"
"""The folder of the page's files."""

_MODULES = ("main", "state", "source", "png", "pane", "panes", "draw", "panel", "popup", "keys", "run")
_LIBRARY = ("maplibre-gl.js", "maplibre-gl.css")
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def files() -> dict[str, Path]:
    """All that the server gives out beside the page: files by the name that the page asks for.

    Raises:
        FctlError: MapLibre GL is missing.
    """
    found = {f"{name}.js": STATIC / f"{name}.js" for name in _MODULES}
    found |= {"page.css": STATIC / "page.css", "icon.svg": STATIC / "icon.svg"}
    return found | {name: STATIC / "vendor" / name for name in _LIBRARY if _library(name)}


def kind_of(name: str) -> str:
    """The media type of a file of the page."""
    return _KINDS[Path(name).suffix]


def _library(name: str) -> Path:
    path = STATIC / "vendor" / name
    if not path.is_file():
        raise FctlError(
            "MapLibre GL is missing from this installation of fctl: the machine that built it had no network",
            remedy="install fctl again where registry.npmjs.org can be reached, or from a wheel",
        )
    return path


@cache
def live_page() -> str:
    """The page of the server, which asks it for everything else."""
    head = '<link rel="stylesheet" href="static/maplibre-gl.css"><link rel="stylesheet" href="static/page.css">'
    head += '<link rel="icon" href="static/icon.svg">'
    foot = '<script src="static/maplibre-gl.js"></script><script type="module" src="static/main.js"></script>'
    return _page(head, f'<script type="importmap">{_live_map()}</script>', foot)


def live_policy() -> str:
    """What the page of the server may load: its own files, and nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(_live_map().encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self' data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def lone_page(content: Mapping[str, object]) -> str:
    """The page as one file, which asks nobody for anything.

    Args:
        content: What the server would have answered, as values that JSON knows.

    Returns:
        HTML.
    """
    modules = {f"fctl/{name}.js": _data("text/javascript", _text(f"{name}.js")) for name in _MODULES}
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f"<style>{_library('maplibre-gl.css').read_text('utf-8')}</style><style>{_text('page.css')}</style>"
    library = _library("maplibre-gl.js").read_text("utf-8").replace("</script", "<\\/script")
    foot = f'<script type="application/json" id="content">{_harmless(content)}</script><script>{library}</script>'
    foot += '<script type="module">import "fctl/main.js";</script>'
    return _page(head, f'<script type="importmap">{json.dumps({"imports": modules})}</script>', foot)


def _page(head: str, imports: str, foot: str) -> str:
    page = _text("page.html")
    for mark, text in (("<!-- head -->", head), ("<!-- imports -->", imports), ("<!-- foot -->", foot)):
        before, _, after = page.partition(mark)
        page = before + text + after
    return page


def _live_map() -> str:
    """Where the page finds its modules, under the names by which they import each other."""
    return json.dumps({"imports": {"fctl/": "./static/"}})


def _data(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _harmless(content: Mapping[str, object]) -> str:
    """JSON that cannot end the element that it stands in."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _text(name: str) -> str:
    return (STATIC / name).read_text("utf-8")
