"""``fctl-explain``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime.cli.console import command, echo, usage
from fctl.runtime.cli.groups import OptionGroup
from fctl.runtime.cli.options import Bands, Overwrite, Resolution, ScaleRange, band_numbers
from fctl.runtime.cli.tables import print_table
from fctl.runtime.errors import FctlError, InputError

if TYPE_CHECKING:
    from fctl.export.explain.explanation import Explanation

_NEEDED = {"onnx": "explain", "onnxruntime": "cpu"}  # packages, and the extras that bring them
_SUFFIX = "_explain.png"
_PICTURES = (".png", ".jpg", ".jpeg")
_HELD = 64 << 20  # bytes of pixels at another resolution


@dataclass(frozen=True, kw_only=True)
class Seen(OptionGroup):
    """How the image is seen."""

    panel = "Network and image"

    bundle: Annotated[str, typer.Option(help="A bundle folder, or 'default' for the one shipped with fctl.")] = (
        "default"
    )
    bands: Bands = None
    scale_range: ScaleRange = None
    resolution: Resolution = "auto"


@dataclass(frozen=True, kw_only=True)
class Picture(OptionGroup):
    """The picture."""

    panel = "Picture"

    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help=f"PNG or JPEG. Default: NAME{_SUFFIX} in the current folder."),
    ] = None
    overwrite: Overwrite = False


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, as fctl-run takes it.")],
    at: Annotated[str, typer.Option(metavar="X,Y", help="The pixel: its column and its row, from 0.")],
    seen: Seen,
    picture: Picture,
) -> None:
    """Show what decides on one pixel: where the network looks, which context it leans on, and what it says without it.

    Prints two tables and draws a picture; see docs/contexts.md.
    """
    _check_packages()
    pixel = _pixel(at)
    out = _out(image, picture)
    found = _explained(image, pixel, seen)
    _print(found)
    _write(found, Path(image).name, out)
    echo(f"wrote {out}")


def _check_packages() -> None:
    """Refuse in one line where a package is missing."""
    from fctl.runtime import remedies

    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            raise FctlError(f"fctl-explain needs {package}, which is not installed", remedy=remedies.install(extra))


def _pixel(text: str) -> tuple[int, int]:
    """The value of ``--at``: column and row."""
    try:
        column, row = (int(part) for part in text.split(","))
    except ValueError:
        raise usage(f"--at: expected a column and a row as in 1200,800, found {text!r}") from None
    return column, row


def _out(image: str, picture: Picture) -> Path:
    """Where the picture goes, which is checked before anything is computed."""
    from fctl.runtime.atomic import refuse_existing
    from fctl.runtime.raster.places import place_of, stem_of

    out = picture.out or Path(stem_of(place_of(image)) + _SUFFIX)
    if out.suffix.lower() not in _PICTURES:
        raise InputError(subject="`out`", expected=f"a name that ends in {' or '.join(_PICTURES)}", found=str(out))
    if out.exists() and Path(image).exists() and out.samefile(image):
        raise InputError(subject="`out`", expected="another file than the image", found=str(out))
    if not picture.overwrite:
        refuse_existing(out, remedy="use `overwrite` to replace it")
    return out


def _explained(image: str, at: tuple[int, int], seen: Seen) -> Explanation:
    """What decides on a pixel of an image."""
    from fctl.export.explain.explanation import explain as explained
    from fctl.runtime.bundle.store import read_bundle
    from fctl.runtime.raster.access import Access
    from fctl.runtime.raster.places import place_of
    from fctl.runtime.raster.resolution import Resolution as Asked
    from fctl.runtime.raster.source import open_raster
    from fctl.runtime.tiling.rescaled import RescaledSource
    from fctl.runtime.tiling.windows import Window

    bundle, asked = read_bundle(seen.bundle), Asked.parsed(seen.resolution)
    manifest, (x, y) = bundle.manifest, at
    bands = band_numbers(seen.bands)
    with open_raster(place_of(image), manifest.image, bands, scale_range=seen.scale_range) as raster:
        if not (0 <= x < raster.width and 0 <= y < raster.height):
            size = f"{raster.width} columns and {raster.height} rows"
            raise InputError(subject="`at`", expected=f"a pixel of the image, {size} from 0", found=f"{x},{y}")
        rescale = asked.rescale(raster, manifest.input.ground_sample_distance, Access())
        if rescale.is_identity:
            return explained(bundle, raster, at)
        source = RescaledSource(raster, rescale, _HELD)
        return explained(bundle, source, at, rescale.working_window(Window(y, x, 1, 1)))


def _print(found: Explanation) -> None:
    """One table of what the network leans on, and one of what it says."""
    from fctl.export.explain.picture import percent

    rows = [
        (
            view.name, f"{view.window.width} x {view.window.height}",
            "does not attend" if view.weight is None else f"{view.weight:.2f}",
            "" if view.likeness is None else percent(view.likeness),
        )
        for view in found.views
    ]  # fmt: skip
    x, y = found.at
    print_table(f"What pixel {x},{y} leans on", rows, ("window", "pixels", "weight", "by likeness"))
    said = [
        (one.shown, found.classes[one.best].name, *(percent(share) for share in one.probabilities))
        for one in found.verdicts
    ]
    print_table("What the network says of it", said, ("shown", "class", *(one.name for one in found.classes)))


def _write(found: Explanation, name: str, out: Path) -> None:
    """Draw the picture."""
    from fctl.export.explain.picture import draw
    from fctl.runtime.atomic import atomic_write

    drawn = draw(found, name)
    with atomic_write(out) as temporary:
        drawn.save(temporary)


explain_app = command(
    explain, examples=("image.tif --at 1200,800", "image.tif --at 40,60 --bundle city.fctl -o why.png")
)
