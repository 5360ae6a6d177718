"""`Segmenter`: what an application embeds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from ..bundle.store import Bundle, read_bundle
from ..engines.base import GpuEngine, RunPrecision
from ..errors import EngineError, InputError, RasterError
from ..progress import TileProgress
from ..raster.places import place_of
from ..raster.source import open_raster
from ..tiling.merge import NODATA
from ..tiling.resampling import Pixels
from ..tiling.sources import ArraySource, Source
from ..tiling.turns import DIHEDRAL, UPRIGHT
from .batches import grid_of, rows_in_work
from .network import EngineNetwork
from .opening import open_network
from .outputs import check_outputs, sinks_of, tags_of
from .pipeline import Rows, segment_rows
from .results import DeviceSegmentation, Estimate, Paths, Report, Segmentation
from .sinks import MaskedRaster

log = logging.getLogger(__name__)


class Segmenter:
    """Segments arrays, files and streams with one bundle, which is loaded once. A context manager.

    Several threads may share a segmenter; they take turns.

    >>> from fctl.runtime import Segmenter
    >>> with Segmenter("default") as segmenter:
    ...     mask = segmenter.segment(image).ids

    Args:
        bundle: A bundle folder, "default" for the one shipped with fctl, or a bundle that was read.
        backend: The engine, see docs/engines.md; the one that was chosen is in `engine`.
        precision: In what precision to run.
        batch: Tiles for each run of the engine, unless the bundle fixes it. The result does not depend on it.
        tta: Test-time augmentation: every patch is segmented in all eight turns (§4.2), which is eight times the work.
        scene_size: Side in pixels of the scene blocks that a global context shows of large rasters, instead of the
            bundle's own (§4.2, DeepGlobe).
        build_engines: Whether to build engines of TensorRT that are missing, into the cache. It takes minutes, once.

    Raises:
        BundleError: The bundle is missing, damaged or lacks graphs of that precision.
        InputError: An argument does not fit the bundle.
        EngineError: No engine here can run the bundle as asked.
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
        self._lock, self._at_work = threading.RLock(), False
        self._network: EngineNetwork | None = open_network(self.bundle, backend, precision, batch, build_engines)
        self.engine = self._network.engine
        log.info(
            "bundle %s runs on %s, %s, %s",
            self.manifest.name,
            self.engine.name,
            self.engine.device,
            self.engine.precision,
        )

    def segment(self, image: Pixels, *, probabilities: bool = False) -> Segmentation:
        """Segment one image in memory.

        Args:
            image: Array (height, width, bands) in the bundle's dtype. Floats that are not finite, or beyond 1e30, have
                no data.
            probabilities: Whether probabilities are wanted.

        Returns:
            Class ids, and probabilities if they are wanted.

        Raises:
            RasterError: The image has another dtype or number of bands than the bundle.
            EngineError: The engine failed.
        """
        image, spec = np.asarray(image), self.manifest.input
        if image.ndim != 3 or image.shape[2] != spec.bands or image.dtype != spec.dtype or 0 in image.shape:
            raise RasterError(
                expected=f"an image (height, width, {spec.bands}) of {spec.dtype}",
                found=f"{image.shape} of {image.dtype}",
            )
        with self._turn():
            rows = list(self._rows(ArraySource(image), probabilities))
        found = [row.probabilities for row in rows if row.probabilities is not None]
        return Segmentation(
            ids=np.concatenate([row.ids for row in rows]),
            probabilities=np.concatenate(found, axis=1) if found else None,
        )

    def segment_device(self, image: object, *, probabilities: bool = False) -> DeviceSegmentation:
        """Segment an image that lies on the GPU, without copying it to the host.

        Args:
            image: Array (height, width, bands) in the bundle's dtype with DLPack or ``__cuda_array_interface__``, as of
                PyTorch, CuPy or JAX; any strides.
            probabilities: Whether probabilities are wanted.

        Returns:
            Arrays on the GPU. They are ready, and may outlive the segmenter.

        Raises:
            EngineError: The engine does not run on a GPU.
            InputError: The array does not lie on a GPU.
            RasterError: The image has another dtype or number of bands than the bundle.
            DeviceMemoryError: The GPU's memory is too small.
        """
        with self._turn():
            network = self._loaded()
            if not isinstance(network.engine, GpuEngine):
                raise EngineError(
                    expected="an engine on a GPU",
                    found=network.engine.name,
                    remedy="choose another backend, or use segment()",
                )
            from .gpu.network import DeviceNetwork
            from .gpu.segment import segment_on_device

            assert isinstance(network, DeviceNetwork)
            ids, found = segment_on_device(network, image, self.turns, probabilities)
        return DeviceSegmentation(ids=ids, probabilities=found)

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
        """Segment one raster into files, of which none is left half-written.

        Memory grows with the raster's width, not with its height.

        Args:
            image: The raster: a file, or the name that GDAL gives a part of a container (a subdataset).
            paths: The files to write: the mask is a GeoTIFF of class ids that keeps the georeference.
            bands: Numbers of the bands to use, from 1, in the bundle's order; None for all but alpha.
            overwrite: Whether files that exist are replaced.
            progress: Called with tiles that are done and tiles in all.

        Returns:
            What came of the image.

        Raises:
            RasterError: The raster is missing, damaged, or does not fit the bundle.
            InputError: An output is the image itself, or no sink has its name.
            OutputError: A file exists already or cannot be written.
            EngineError: The engine failed.
        """
        image, started = place_of(image), time.monotonic()
        self._loaded()
        sinks = sinks_of(paths)
        check_outputs(image, paths, overwrite)
        pixels, not_finite = np.zeros(NODATA + 1, np.int64), 0
        with self._turn(), ExitStack() as stack:
            source = stack.enter_context(open_raster(image, self.manifest.input, bands, rows_in_work(self.manifest)))
            raster = MaskedRaster(
                source=source, classes=self.manifest.classes, tags=tags_of(self.manifest, self.engine, self.turns)
            )
            writers = [stack.enter_context(sink.open(path, raster)) for sink, path in sinks]
            probabilities = any(sink.needs_probabilities for sink, _ in sinks)
            for rows in self._rows(source, probabilities, progress):
                for write in writers:
                    write(rows)
                pixels += np.bincount(rows.ids.ravel(), minlength=NODATA + 1)
                not_finite += rows.not_finite
            height, width = source.height, source.width
        return Report(
            image=image, paths=paths, height=height, width=width, tiles=len(grid_of(self.manifest, height, width)),
            seconds=time.monotonic() - started,
            pixels={name: int(pixels[index]) for index, name in enumerate(self.manifest.class_names)},
            not_finite=not_finite, implausible=source.implausible,
        )  # fmt: skip

    def estimate(
        self, image: str | Path, paths: Paths, *, bands: Sequence[int] | None = None, overwrite: bool = False
    ) -> Estimate:
        """What `segment_file` would take with the same arguments, without running it.

        Args:
            image: The raster, as for `segment_file`.
            paths: The files that would be written.
            bands: Numbers of the bands to use, from 1; None for all but alpha.
            overwrite: Whether files that exist would be replaced.

        Returns:
            The estimate.

        Raises:
            RasterError: The raster is missing, or does not fit the bundle.
            InputError: An output is the image itself, or no sink has its name.
            OutputError: A file exists already.
        """
        image, rows, manifest = place_of(image), rows_in_work(self.manifest), self.manifest
        sinks = sinks_of(paths)
        check_outputs(image, paths, overwrite)
        with open_raster(image, manifest.input, bands, rows) as source:
            height, width = source.height, source.width
            scenes = [c.window.rows(manifest.tile, source) for c in manifest.contexts if c.window.shared]
        classes, spec = len(manifest.classes), manifest.input
        sums = 3 * 4 * classes * manifest.tile * width  # sums, a finished strip, and its probabilities
        cache = max([int(1.5 * rows), *scenes]) * width * spec.bands * np.dtype(spec.dtype).itemsize
        return Estimate(
            image=image, height=height, width=width, tiles=len(grid_of(manifest, height, width)), memory=sums + cache,
            disk=sum(sink.disk(height, width, classes) for sink, _ in sinks),
        )  # fmt: skip

    def close(self) -> None:
        """Release the engine; the segmenter cannot be used afterwards."""
        with self._turn():
            network, self._network = self._network, None
            if network:
                network.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for other threads. The thread that is at work must not come again, from its `progress` for example."""
        with self._lock:
            if self._at_work:
                raise InputError("this segmenter is at work in this thread", remedy="call it when it has finished")
            self._at_work = True
            try:
                yield
            finally:
                self._at_work = False

    def _loaded(self) -> EngineNetwork:
        if self._network is None:
            raise InputError("this segmenter is closed; make a new one")
        return self._network

    def _rows(self, source: Source, probabilities: bool, progress: TileProgress | None = None) -> Iterator[Rows]:
        return segment_rows(self._loaded(), source, probabilities=probabilities, turns=self.turns, progress=progress)


def _with_scene_size(bundle: Bundle, side: int) -> Bundle:
    manifest = bundle.manifest
    if not any(context.window.shared for context in manifest.contexts):
        raise InputError(
            f"bundle {manifest.name} has no global context: a scene size means nothing to it",
            remedy="leave it out",
        )
    if side <= manifest.tile:
        raise InputError(subject="`scene_size`", expected=f"more than the {manifest.tile} pixels of a tile", found=side)
    contexts = tuple(replace(c, scene=side) if c.window.shared else c for c in manifest.contexts)
    return replace(bundle, manifest=replace(manifest, contexts=contexts))
