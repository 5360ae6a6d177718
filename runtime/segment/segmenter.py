"""`Segmenter`: what an application embeds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.store import Bundle, read_bundle
from ..engines.base import GpuEngine, HostEngine, RunPrecision
from ..engines.processor import adds_int8_exactly
from ..errors import EngineError, InputError, RasterError
from ..progress import TileProgress
from ..raster.atomic import atomic_write, refuse_existing
from ..raster.source import open_raster, read_thumbnail
from ..tiling.resampling import Pixels
from ..tiling.sources import ArraySource, Source
from ..tiling.turns import DIHEDRAL, UPRIGHT
from ..tiling.windows import Window
from .batches import grid_of, rows_in_work
from .network import Network
from .opening import open_network
from .outputs import create_outputs
from .pipeline import Rows, segment_rows
from .preview import draw_preview, preview_size

if TYPE_CHECKING:
    pass
from .results import DeviceSegmentation, Estimate, Paths, Report, Segmentation

log = logging.getLogger(__name__)


class Segmenter:
    """Segments arrays, files and streams with one bundle, loaded once. A context manager.

    Several threads may share one; they take turns.

    >>> from fctl.runtime import Segmenter
    >>> with Segmenter("default") as segmenter:
    ...     mask = segmenter.segment(image).ids

    bundle: a bundle folder, or "default". backend, precision: see docs/engines.md; the engine that was chosen is
    `engine`. batch: tiles per run of the engine, unless the bundle's is fixed; the result does not depend on it. tta:
    test-time augmentation, every patch in all eight turns (§4.2), eight times the work. scene_size: side in pixels of
    the scene blocks that a global context shows of large rasters, instead of the bundle's (§4.2, DeepGlobe).
    build_engines: build engines of TensorRT that are missing, into the cache; it takes minutes, once.
    Raises BundleError, InputError or EngineError.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = "default",
        *,
        backend: str = "auto",
        precision: RunPrecision = "fp32",
        batch: int = 4,
        tta: bool = False,
        scene_size: int | None = None,
        build_engines: bool = False,
    ) -> None:
        if batch < 1:
            raise InputError(f"batch must be at least 1, found {batch}")
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        if scene_size is not None:
            self.bundle = _with_scene_size(self.bundle, scene_size)
        self.manifest = self.bundle.manifest
        self.turns = DIHEDRAL if tta else (UPRIGHT,)
        self._lock = threading.Lock()
        self._network: Network[Any, Any] | None = open_network(self.bundle, backend, precision, batch, build_engines)
        self.engine = self._network.engine
        log.info(
            "bundle %s runs on %s, %s, %s",
            self.manifest.name,
            self.engine.name,
            self.engine.device,
            self.engine.precision,
        )
        if self.engine.precision == "int8" and isinstance(self.engine, HostEngine) and not adds_int8_exactly():
            log.warning(
                "warning: without VNNI this processor would overflow in int8: values are rounded as in int8 and "
                "computed in fp32, no faster than precision fp32"
            )

    def segment(self, image: Pixels, *, probabilities: bool = False) -> Segmentation:
        """Segment one image in memory: (height, width, bands) in the bundle's dtype.

        Raises RasterError for another number of bands or dtype.
        """
        spec = self.manifest.input
        if image.ndim != 3 or image.shape[2] != spec.bands or image.dtype != spec.dtype or 0 in image.shape:
            raise RasterError(
                f"expected an image (height, width, {spec.bands}) of {spec.dtype}, found {image.shape} of {image.dtype}"
            )
        with self._lock:
            rows = list(self._rows(ArraySource(image), probabilities))
        shares = [row.probabilities for row in rows if row.probabilities is not None]
        return Segmentation(
            ids=np.concatenate([row.ids for row in rows]),
            probabilities=np.concatenate(shares, axis=1) if shares else None,
        )

    def segment_device(self, image: Any, *, probabilities: bool = False) -> DeviceSegmentation:
        """Segment an image that lies on the GPU, (height, width, bands) in the bundle's dtype, without copying it out.

        image: an array with DLPack or ``__cuda_array_interface__``, as of PyTorch, CuPy or JAX; any strides. The result
        is ready when this returns, and may outlive the segmenter. Raises EngineError for an engine that is not on a
        GPU, InputError and RasterError for another kind of array, DeviceMemoryError where its memory is too small.
        """
        with self._lock:
            network = self._loaded()
            if not isinstance(network.engine, GpuEngine):
                raise EngineError(
                    f"expected an engine on a GPU, found {network.engine.name}; choose another backend, or use "
                    "segment()"
                )
            from .gpu.segment import segment_on_device

            ids, shares = segment_on_device(network, image, self.turns, probabilities)  # type: ignore[arg-type]
        return DeviceSegmentation(ids=ids, probabilities=shares)

    def stream(self, frames: Iterable[Pixels], *, probabilities: bool = False) -> Iterator[Segmentation]:
        """Segment frame after frame, each as `segment` does, as they come."""
        for frame in frames:
            yield self.segment(frame, probabilities=probabilities)

    def segment_file(
        self,
        image: str | Path,
        paths: Paths,
        *,
        bands: Sequence[int] | None = None,
        overwrite: bool = False,
        progress: TileProgress | None = None,
    ) -> Report:
        """Segment one raster into files: the mask as a GeoTIFF of class ids that keeps the georeference.

        bands: 1-based bands to use, in the bundle's order. Memory grows with the raster's width, not its height.
        Raises RasterError, InputError, OutputError or EngineError; no file is left half-written.
        """
        image, started = Path(image), time.monotonic()
        self._loaded()
        _check_outputs(image, paths, overwrite)
        with self._lock, ExitStack() as stack:
            source = stack.enter_context(open_raster(image, self.manifest.input, bands, rows_in_work(self.manifest)))
            preview = stack.enter_context(atomic_write(paths.preview)) if paths.preview else None
            shares = stack.enter_context(atomic_write(paths.probabilities)) if paths.probabilities else None
            mask = stack.enter_context(atomic_write(paths.mask))  # innermost, so that what cannot be written is named after it
            size = (source.height, source.width)
            with create_outputs(
                mask, shares, size, source.georeference, self.manifest, self.engine, self.turns
            ) as files:
                for rows in self._rows(source, files.wants_probabilities, progress):
                    files.write(rows)
            if preview:
                small = preview_size(*size)
                picture = draw_preview(source.thumbnail(*small), read_thumbnail(mask, *small), self.manifest.classes)
                picture.save(preview)
            tiles = len(grid_of(self.manifest, *size))
        counted = dict(zip(self.manifest.class_names, files.pixels.tolist(), strict=True))
        return Report(
            image=image, paths=paths, height=size[0], width=size[1], tiles=tiles,
            seconds=time.monotonic() - started, pixels=counted,
        )  # fmt: skip

    def estimate(self, image: str | Path, paths: Paths, *, bands: Sequence[int] | None = None) -> Estimate:
        """What `segment_file` would take, without running it. Raises RasterError."""
        image, rows = Path(image), rows_in_work(self.manifest)
        with open_raster(image, self.manifest.input, bands, rows) as source:
            size = (source.height, source.width)
            anywhere = Window(0, 0, self.manifest.tile, self.manifest.tile)
            moving = [context.window for context in self.manifest.contexts if context.window.moves]
            scenes = [window.around(anywhere, source) for window in moving]
        classes, spec = len(self.manifest.classes), self.manifest.input
        sums = 3 * 4 * classes * self.manifest.tile * size[1]  # sums, a finished strip, and its probabilities
        held = max([int(1.5 * rows), *(scene.height for scene in scenes)])
        cache = held * size[1] * spec.bands * np.dtype(spec.dtype).itemsize
        disk = size[0] * size[1] * (1 + (4 * classes if paths.probabilities else 0))
        tiles = len(grid_of(self.manifest, *size))
        return Estimate(image=image, height=size[0], width=size[1], tiles=tiles, memory=sums + cache, disk=disk)

    def close(self) -> None:
        """Let go of the engine; the segmenter cannot be used afterwards."""
        with self._lock:
            network, self._network = self._network, None
            if network:
                network.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loaded(self) -> Network[Any, Any]:
        if self._network is None:
            raise InputError("this segmenter is closed; make a new one")
        return self._network

    def _rows(self, source: Source, probabilities: bool, progress: TileProgress | None = None) -> Iterator[Rows]:
        return segment_rows(self._loaded(), source, probabilities=probabilities, turns=self.turns, progress=progress)


def _with_scene_size(bundle: Bundle, side: int) -> Bundle:
    manifest = bundle.manifest
    if not any(context.window.moves for context in manifest.contexts):
        raise InputError(
            f"bundle {manifest.name} has no global context: a scene size means nothing to it; leave it out"
        )
    if side <= manifest.tile:
        raise InputError(f"scene size: expected more than the {manifest.tile} pixels of a tile, found {side}")
    contexts = tuple(replace(c, scene=side) if c.window.moves else c for c in manifest.contexts)
    return replace(bundle, manifest=replace(manifest, contexts=contexts))


def _check_outputs(image: Path, paths: Paths, overwrite: bool) -> None:
    for path in paths.wanted():
        if path.resolve() == image.resolve():
            raise InputError(f"{path} is the image itself; choose another --out")
        if not overwrite:
            refuse_existing(path, remedy="use --overwrite to replace it")
