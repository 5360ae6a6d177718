"""``fctl-view``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FctlError, InputError
from .console import command, echo, refuse
from .groups import OptionGroup
from .interrupts import ending_at_once
from .options import Overwrite, band_numbers
from .tables import progress_bars

_NEEDED = ("rio_tiler", "starlette", "uvicorn", "shapely")


@dataclass(frozen=True, kw_only=True)
class Beside(OptionGroup):
    """What is shown beside the mask and its image."""

    panel = "Beside mask and image"

    probabilities: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Probabilities of the classes, NAME_prob.tif.")
    ] = None
    confidence: Annotated[Path | None, typer.Option(metavar="FILE", help="Confidence, NAME_confidence.tif.")] = None
    other: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another mask: side by side, and where the two differ.")
    ] = None
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Labels as class ids: what is wrong.")] = None
    bands: Annotated[
        str | None, typer.Option(metavar="LIST", help="Bands of the image as red, green and blue, from 1, as 4,3,2.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Server(OptionGroup):
    """Where the page can be opened."""

    panel = "Server"

    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1"
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="NUMBER", help="The port. Default: 8790, or a free one.")
    ] = None
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address, and open no browser.")] = False


@dataclass(frozen=True, kw_only=True)
class OnePage(OptionGroup):
    """A page of one file in place of a server."""

    panel = "One file instead of a server"

    export: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Write image and mask as one HTML that needs no server and no network."),
    ] = None
    zoom: Annotated[
        int | None,
        typer.Option(min=0, metavar="NUMBER", help="Its deepest zoom. Default: that of the pixels, or what fits."),
    ] = None
    overwrite: Overwrite = False


def view(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="The mask, as fctl-run writes it.")],
    beside: Beside,
    server: Server,
    page: OnePage,
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="The image that it was made of.")] = None,
) -> None:
    """Show a mask over its image in the browser: swipe, click, compare, and measure areas.

    Prints the address of the page, and ends with Ctrl-C; see docs/view.md.
    """
    check_packages("fctl-view")
    given = {
        "mask": mask, "image": image, "other": beside.other, "labels": beside.labels, "confidence": beside.confidence,
        "probabilities": beside.probabilities,
    }  # fmt: skip
    files = {role: path for role, path in given.items() if path is not None}
    bands = band_numbers(beside.bands)
    if page.export is None:
        refuse(OnePage, "--export")
        _serve(files, bands, server)
    else:
        refuse(Server, "a server, not for --export")
        with ending_at_once():
            _export(files, bands, page.export, page)


def _serve(files: dict[str, Path], bands: tuple[int, ...] | None, server: Server) -> None:
    """Serve the page until Ctrl-C, which is how it ends."""
    from ..view.app import Exhibit
    from ..view.layers import open_view
    from ..view.serve import serve

    def tell(address: str) -> None:
        echo(f"{address} shows {files['mask'].name}; Ctrl-C ends it")

    try:
        serve(Exhibit(open_view(files, bands)), server.host, server.port, opens=not server.no_open, tell=tell)
    except KeyboardInterrupt:
        return


def _export(files: dict[str, Path], bands: tuple[int, ...] | None, path: Path, page: OnePage) -> None:
    """Write the page as one file."""
    from ..atomic import refuse_existing
    from ..view.export import export_page
    from ..view.layers import open_view

    if others := set(files) - {"mask", "image"}:
        raise InputError(
            subject="`export`", expected="the mask and its image, which a page of one file holds",
            found=f"{', '.join(sorted(others))} too", remedy="leave the others out",
        )  # fmt: skip
    if not page.overwrite:
        refuse_existing(path, remedy="use `overwrite` to replace it")
    found = open_view(files, bands)
    with progress_bars() as bars:
        zoom = export_page(found, path, page.zoom, partial(bars, path.name))
    echo(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, down to zoom {zoom}")


def check_packages(who: str) -> None:
    """Refuse in one line where the extra is missing.

    Args:
        who: The command or option that needs it.

    Raises:
        FctlError: A package is missing.
    """
    from .. import remedies

    for package in _NEEDED:
        if find_spec(package) is None:
            raise FctlError(f"{who} needs {package}, which is not installed", remedy=remedies.install("view"))


view_app = command(view, examples=("image_mask.tif image.tif", "image_mask.tif image.tif --export page.html"))
