"""The rasters that are shown, and what is known of them before any tile is asked for."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ..bundle.manifest import ClassInfo
from ..errors import RasterError
from ..raster.classnames import names_in
from ..raster.display import Display, display_of
from ..raster.frames import Frame, frame_of
from ..raster.georeference import Georeference, georeference_of
from ..raster.palette import palette_of
from ..raster.source import OpenFile, open_any
from ..tiling.merge import NODATA

Kind = Literal["image", "ids", "shares"]
"""What a raster holds: an image, class ids, or probabilities."""

ROLES: Mapping[str, Kind] = {
    "mask": "ids", "image": "image", "other": "ids", "labels": "ids", "confidence": "shares",
    "probabilities": "shares",
}  # fmt: skip
"""By role, what a raster of it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One raster that is shown.

    Attributes:
        role: What it is to the mask: "mask" itself, "image", "other", "labels", "confidence" or "probabilities".
        path: The file.
        frame: Where it is shown.
        bands: How many bands it has.
        version: What tells one content of the file from another.
        display: What makes colours of an image; None for all else.
    """

    role: str
    path: Path
    frame: Frame
    bands: int
    version: str
    display: Display | None = None

    @property
    def kind(self) -> Kind:
        """What it holds."""
        return ROLES[self.role]

    @property
    def zoom(self) -> int:
        """The deepest zoom at which tiles are made; pages enlarge these."""
        return self.frame.nearest_zoom if self.kind == "image" else self.frame.zoom


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that is shown.

    Attributes:
        layers: The rasters by role; "mask" is always there.
        classes: The classes, by id.
        is_named: Whether the mask names its classes; otherwise there is one for every id that a byte can be.
        georeference: Where the mask lies, with no place if it has none.
    """

    layers: dict[str, Layer]
    classes: tuple[ClassInfo, ...]
    is_named: bool
    georeference: Georeference = field(repr=False)

    @property
    def mask(self) -> Layer:
        """The mask."""
        return self.layers["mask"]

    @property
    def names(self) -> list[str]:
        """Names of the classes, by id."""
        return [info.name for info in self.classes]


def open_view(files: Mapping[str, Path], bands: Sequence[int] | None = None) -> View:
    """Look at all rasters that are to be shown.

    Args:
        files: The file of each role, see `Layer`; "mask" among them.
        bands: Numbers of the bands of the image that are shown, from 1; None chooses them by their colours.

    Returns:
        What is shown.

    Raises:
        RasterError: A raster cannot be read, or does not fit the mask.
    """
    with open_any(files["mask"]) as dataset:
        place, classes = georeference_of(dataset), _classes_of(dataset)
        named = bool(names_in(dataset.tags()))
        mask = _layer("mask", files["mask"], dataset, frame_of(dataset))
    layers = {"mask": mask}
    for role, path in files.items():
        if role != "mask":
            with open_any(path) as dataset:
                layers[role] = _layer(role, path, dataset, _frame_beside(mask, path, dataset), bands)
    _check_bands(layers, len(classes) if named else None)
    return View(layers=layers, classes=classes, is_named=named, georeference=place)


def _layer(role: str, path: Path, dataset: OpenFile, frame: Frame, bands: Sequence[int] | None = None) -> Layer:
    kind = ROLES[role]
    if kind == "ids" and (dataset.count != 1 or dataset.dtypes[0] != "uint8"):
        found = f"{dataset.count} of {dataset.dtypes[0]}"
        raise RasterError(subject=path, expected="class ids in one band of uint8", found=found)
    if kind == "shares" and dataset.dtypes[0] not in ("uint8", "float32"):
        expected = "probabilities as fctl writes them, in uint8 or float32"
        raise RasterError(subject=path, expected=expected, found=dataset.dtypes[0])
    stat = path.stat()
    return Layer(
        role=role, path=path, frame=frame, bands=int(dataset.count), version=f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
        display=display_of(dataset, path, bands) if kind == "image" else None,
    )  # fmt: skip


def _frame_beside(mask: Layer, path: Path, dataset: OpenFile) -> Frame:
    """Where another raster is shown: at its own place, or else on the mask, of which it must have the size."""
    frame = frame_of(dataset)
    if frame.is_placed and mask.frame.is_placed:
        return frame
    if dataset.shape != (mask.frame.height, mask.frame.width):
        raise RasterError(
            subject=path, expected=f"{mask.frame.width} x {mask.frame.height} pixels as in {mask.path}",
            found=f"{dataset.width} x {dataset.height}",
            remedy="only rasters that both have a place on the ground may differ in size",
        )  # fmt: skip
    return mask.frame


def _check_bands(layers: Mapping[str, Layer], classes: int | None) -> None:
    """Refuse probabilities of other classes than the mask's."""
    probabilities, confidence = layers.get("probabilities"), layers.get("confidence")
    if probabilities and classes is not None and probabilities.bands != classes:
        raise RasterError(
            subject=probabilities.path, expected=f"{classes} bands, one for each class", found=probabilities.bands
        )
    if confidence and confidence.bands != 1:
        raise RasterError(subject=confidence.path, expected="one band of confidence", found=confidence.bands)


def _classes_of(dataset: OpenFile) -> tuple[ClassInfo, ...]:
    """Names and colours; without names, a class for every id, and without a palette, colours that differ."""
    palette, names = palette_of(dataset, 1), names_in(dataset.tags())[:NODATA]
    colours = [tuple(colour) for colour in palette.colours[:NODATA, :3].tolist()] if palette else list(_colours())
    names = names or [f"class {index}" for index in range(NODATA)]
    return tuple(ClassInfo(name=name, colour=colour) for name, colour in zip(names, colours, strict=False))


def _colours() -> Iterator[tuple[int, int, int]]:
    """A colour for every id, neighbours far from each other."""
    for index in range(NODATA):
        hue, light = index * 0.618034 % 1, (0.5, 0.68, 0.34)[index // 5 % 3]  # hues come again, about
        red, green, blue = (np.array(colorsys.hls_to_rgb(hue, light, 0.65)) * 255).astype(int).tolist()
        yield red, green, blue
