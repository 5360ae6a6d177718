"""What the server answers."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..errors import FctlError, InputError
from . import page
from .cache import ByteCache
from .counts import comparison, polygon_tables, whole_table
from .description import described
from .gates import Gate
from .layers import View
from .points import at
from .tiles import Tile, names_of, picture_of

TILES = 64 << 20
"""Bytes of finished tiles that are kept."""

_KINDS = {b"\x89": "image/png", b"\xff": "image/jpeg"}  # by the first byte
_BODY = 1 << 20  # bytes of a request
_FOREVER = {"Cache-Control": "private, max-age=86400, immutable"}  # the address has the version of the files
_NEVER = {"Cache-Control": "no-store"}

_Found = TypeVar("_Found")


class Exhibit:
    """What a server shows; it may be exchanged while the server runs.

    Args:
        view: What is shown first.
        told: Gives what is known of a run that goes on, as values that JSON knows; None where there is none.
    """

    def __init__(self, view: View, told: Callable[[], dict[str, object]] | None = None) -> None:
        self.told = told
        self.now = _Shown(view)

    def show(self, view: View) -> None:
        """Show something else from the next request on."""
        self.now = _Shown(view)


class _Shown:
    """One view, and what was found out about it."""

    def __init__(self, view: View) -> None:
        self.view, self.names, self.description = view, names_of(view), described(view)
        self.versions = "-".join(layer.version for layer in view.layers.values())
        self.counted: dict[str, object] | None = None


def app_of(exhibit: Exhibit, host: str) -> Starlette:
    """A server of what is shown; it gives out nothing else.

    Args:
        exhibit: What is shown.
        host: The address that it is bound to, for the check of names.

    Returns:
        An ASGI application.

    Raises:
        FctlError: A part of the page is missing.
    """
    server = _Server(exhibit)
    routes = [
        Route("/", server.page), Route("/static/{name}", server.static), Route("/view.json", server.view),
        Route("/tiles/{layer}/{z:int}/{x:int}/{y:int}", server.tile), Route("/point", server.point),
        Route("/counts", server.counts), Route("/areas", server.areas, methods=["POST"]), Route("/run", server.run),
    ]  # fmt: skip
    gate = Middleware(Gate, host=host, policy=page.live_policy())
    return Starlette(routes=routes, middleware=[gate], lifespan=server.lifespan)


class _Server:
    """Answers requests. Rasters are read in threads: tiles in as many as there are processors, counts in one."""

    def __init__(self, exhibit: Exhibit) -> None:
        self._exhibit = exhibit
        self._files = {name: gzip.compress(path.read_bytes(), mtime=0) for name, path in page.files().items()}
        self._tiles = ByteCache(TILES)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Make what belongs to the running loop."""
        self._drawing, self._slow = CapacityLimiter(os.cpu_count() or 1), CapacityLimiter(1)
        yield

    async def page(self, request: Request) -> Response:
        """The page."""
        return HTMLResponse(page.live_page(), headers=_NEVER)

    async def static(self, request: Request) -> Response:
        """A file of the page, by its name."""
        name = request.path_params["name"]
        data = self._files.get(name)
        if data is None:
            return _error("there is no such file", 404)
        headers = {"Cache-Control": "no-cache", "Content-Encoding": "gzip"}  # which every browser takes
        return Response(data, media_type=page.kind_of(name), headers=headers)

    async def view(self, request: Request) -> Response:
        """What is known of the rasters."""
        shown = self._exhibit.now
        return JSONResponse({**shown.description, "running": self._exhibit.told is not None}, headers=_NEVER)

    async def run(self, request: Request) -> Response:
        """What is known of a run that goes on."""
        if self._exhibit.told is None:
            return _error("there is no run", 404)
        return JSONResponse({**self._exhibit.told(), "versions": self._exhibit.now.versions}, headers=_NEVER)

    async def tile(self, request: Request) -> Response:
        """One tile; nobody waits for it once the page was moved on."""
        name, place = request.path_params["layer"], [request.path_params[part] for part in "zxy"]
        shown = self._exhibit.now
        if name not in shown.names:
            return _error("there is no such layer", 404)
        key = (shown.versions, name, *place)
        data = self._tiles.get(key)
        if data is None:
            async with self._drawing:
                if await request.is_disconnected():
                    return Response(status_code=204)
                picture, failed = await _tried(lambda: picture_of(shown.view, name, Tile(*place)))
            if picture is None:
                return _error(failed, 400)
            data = picture.data
            self._tiles.put(key, data)
        return Response(data, media_type=_KINDS[data[:1]], headers=_FOREVER)

    async def point(self, request: Request) -> Response:
        """What the rasters say of a place."""
        try:
            longitude, latitude = (float(request.query_params[name]) for name in ("lng", "lat"))
        except (KeyError, ValueError):
            return _error("expected numbers lng and lat", 400)
        if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
            return _error("expected a longitude and a latitude", 400)
        view = self._exhibit.now.view
        async with self._drawing:
            found, failed = await _tried(lambda: at(view, longitude, latitude))
        return _error(failed, 400) if found is None else JSONResponse(found, headers=_NEVER)

    async def counts(self, request: Request) -> Response:
        """The classes of the whole mask, and how it compares with others; they are counted once."""
        shown = self._exhibit.now
        async with self._slow:
            if shown.counted is None:
                found, failed = await _tried(lambda: _all_counts(shown.view))
                shown.counted = {"error": failed} if found is None else found
        return JSONResponse(shown.counted, headers=_NEVER)

    async def areas(self, request: Request) -> Response:
        """The classes in polygons."""
        body, view = b"", self._exhibit.now.view
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY:
                return _error(f"expected at most {_BODY} bytes", 413)
        async with self._slow:
            found, failed = await _tried(lambda: polygon_tables(view, _rings(body)))
        return _error(failed, 400) if found is None else JSONResponse(found, headers=_NEVER)


def _all_counts(view: View) -> dict[str, object]:
    """All that the page shows of the whole mask."""
    roles = [role for role in ("other", "labels") if role in view.layers]
    compared: dict[str, object] = {role: comparison(view, role) for role in roles}
    return {**whole_table(view), **compared}


async def _tried(work: Callable[[], _Found]) -> tuple[_Found | None, str]:
    """What work gives in another thread, or None and what went wrong in one line."""
    try:
        return await to_thread.run_sync(work, limiter=CapacityLimiter(1), abandon_on_cancel=True), ""
    except FctlError as error:
        found = str(error) if error.expected is None else f"expected {error.expected}, found {error.found}"
        return None, found


def _rings(body: bytes) -> list[list[tuple[float, float]]]:
    """The corners of polygons as the page sends them: `{"polygons": [[[longitude, latitude], ...], ...]}`."""
    try:
        return [[(float(x), float(y)) for x, y in ring] for ring in json.loads(body)["polygons"]]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise InputError(subject="polygons", expected="lists of corners", found="something else") from None


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=_NEVER)
