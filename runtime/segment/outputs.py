"""What is written for an image: mask, probabilities, preview."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..bundle.manifest import Manifest
from ..engines.base import Engine
from ..raster.source import Georeference
from ..raster.writer import RasterSpec, RasterWriter, create_raster
from ..tiling.merge import NODATA
from ..tiling.turns import Turn
from .pipeline import Rows


class OutputFiles:
    """Takes finished rows and writes them; counts the pixels of each class. Use `create_outputs`."""

    def __init__(self, classes: int, mask: RasterWriter, probabilities: RasterWriter | None) -> None:
        self._mask, self._probabilities = mask, probabilities
        self.pixels = np.zeros(classes, np.int64)

    @property
    def wants_probabilities(self) -> bool:
        """Whether rows need them."""
        return self._probabilities is not None

    def write(self, rows: Rows) -> None:
        """Append rows to every file."""
        self._mask.write(rows.ids[None])
        if self._probabilities and rows.probabilities is not None:
            self._probabilities.write(rows.probabilities)
        self.pixels += np.bincount(rows.ids.ravel(), minlength=NODATA + 1)[: len(self.pixels)]


@contextlib.contextmanager
def create_outputs(
    mask: Path,
    probabilities: Path | None,
    size: tuple[int, int],
    georeference: Georeference,
    manifest: Manifest,
    engine: Engine,
    turns: Sequence[Turn],
) -> Iterator[OutputFiles]:
    """Files for one image of `size` (height, width): a mask of class ids, and one band of probability per class."""
    classes = manifest.classes
    tags = _tags(manifest, engine, turns)
    ids = RasterSpec(
        height=size[0], width=size[1], dtype="uint8", descriptions=("class",), nodata=NODATA,
        colours=tuple(info.colour for info in classes), tags=tags,
    )  # fmt: skip
    shares = RasterSpec(
        height=size[0], width=size[1], dtype="float32", descriptions=manifest.class_names, nodata=float("nan"),
        colours=None, tags=tags,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(create_raster(mask, ids, georeference))
        other = stack.enter_context(create_raster(probabilities, shares, georeference)) if probabilities else None
        yield OutputFiles(len(classes), writer, other)


def _tags(manifest: Manifest, engine: Engine, turns: Sequence[Turn]) -> dict[str, str]:
    """What made the file, and what its numbers mean: GeoTIFF has no other place for class names."""
    scenes = {context.name: context.scene for context in manifest.contexts if context.scene}
    tags = {
        "FCTL_BUNDLE": manifest.name,
        "FCTL_CHECKPOINT_SHA256": manifest.provenance.checkpoint_sha256,
        "FCTL_ENGINE": engine.name,
        "FCTL_DEVICE": engine.device,
        "FCTL_PRECISION": engine.precision,
        "FCTL_TURNS": str(len(turns)),
        "FCTL_CLASSES": json.dumps(dict(enumerate(manifest.class_names))),
    }
    return tags | ({"FCTL_SCENE_SIZE": json.dumps(scenes)} if scenes else {})
