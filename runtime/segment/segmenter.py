"""`Segmenter`: what an application embeds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar, get_args

import numpy as np

from ..bundle.store import Bundle, read_bundle
from ..choices import BatchChoice, ContextEncoding, PrecisionChoice, StreamPolicy
from ..engines.base import GpuEngine
from ..errors import EngineError, InputError, RasterError
from ..progress import TileProgress
from ..raster.access import Access, Sources
from ..raster.blocks import OnBadBlock
from ..raster.places import Place, placed
from ..stopwatch import STOPPED, Stopwatch
from ..tiling.coarse import CoarseArray, CoarseSource, Ids
from ..tiling.merge import NODATA
from ..tiling.resampling import Pixels
from ..tiling.sources import ArraySource, Source
from ..tiling.turns import DIHEDRAL, UPRIGHT
from .fastest import USUAL_BATCH, Opening, fastest
from .filerun import run_file
from .foresight import estimate_file
from .jobs import FileJob
from .network import EngineNetwork
from .opening import encodes_once, open_network, warn_of_sharing, with_scene_size
from .pipeline import segment_rows
from .refining import check_refiner
from .results import DeviceSegmentation, Estimate, Paths, Report, Segmentation
from .shards.share import Share
from .stream import Stream
from .where import EVERYWHERE, Where

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")


class Segmenter:
    """Segments arrays, files and streams with one bundle, which is loaded once. A context manager.

    Several threads may share a segmenter; they take turns.

    Examples:
        >>> from fctl.runtime import Segmenter
        >>> with Segmenter("default") as segmenter:
        ...     mask = segmenter.segment(image).ids

    Args:
        bundle: A bundle folder, "default" for the one shipped with fctl, or a bundle that was read.
        backend: The engine, see docs/engines.md; the one that was chosen is in `engine`.
        precision: In what precision to run; "auto" for the fastest on this machine of those that the bundle was
            validated for. `engine.precision` is what was taken.
        batch: Tiles for each run of the engine, unless the bundle fixes it; "auto" for the fastest number on this
            machine. Classes do not depend on it.
        tta: Test-time augmentation: every patch is segmented in all eight turns (§4.2), which is eight times the work.
        scene_size: Side in pixels of the scene blocks that a global context shows of large rasters, instead of the
            bundle's own (§4.2, DeepGlobe).
        build_engines: Whether to build engines of TensorRT that are missing, into the cache. It takes minutes, once.
        contexts: How contexts are encoded: "exact" for once a patch, as the network was trained; "shared" for once a
            raster, which takes a third to a half of the time and changes few pixels; "auto" for the latter where the
            bundle was validated for it (docs/shared-contexts.md).
        isolate: Whether the engine, one of the CPU, runs in a child process: a graph of a stranger that crashes the
            engine is an error then, and does not end the application.
        sources: Which images may be opened as files: "local" for files of this machine in formats that read no other
            file, "any" for whatever GDAL opens, for images that you trust; or an `Access`, which also has limits
            (docs/rasters.md).

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
        precision: PrecisionChoice = "fp32",
        batch: BatchChoice = USUAL_BATCH,
        tta: bool = False,
        scene_size: int | None = None,
        build_engines: bool = False,
        contexts: ContextEncoding = "auto",
        isolate: bool = False,
        sources: Sources | Access = "local",
    ) -> None:
        if batch != "auto" and (not isinstance(batch, int) or batch < 1):
            raise InputError(subject="`batch`", expected='a number from 1, or "auto"', found=repr(batch))
        if precision not in get_args(PrecisionChoice):
            raise InputError(
                subject="`precision`", expected=" or ".join(get_args(PrecisionChoice)), found=repr(precision)
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        if scene_size is not None:
            self.bundle = with_scene_size(self.bundle, scene_size)
        self.manifest = self.bundle.manifest
        self.turns = DIHEDRAL if tta else (UPRIGHT,)
        self._lock, self._at_work = threading.RLock(), False
        self.access = sources if isinstance(sources, Access) else Access(sources=sources)
        self._isolate, self.once = isolate, encodes_once(self.bundle, contexts)
        if self.once:
            warn_of_sharing(self.bundle)
        chosen = fastest(self.bundle, backend, precision, batch, Opening(once=self.once, isolate=isolate))
        self._network: EngineNetwork | None = open_network(
            self.bundle, backend, chosen.precision, chosen.batch, build_engines, isolate=isolate, once=self.once
        )
        self._free_batch = batch == "auto"
        engine = self.engine = self._network.engine
        log.info("bundle %s runs on %s, %s, %s", self.manifest.name, engine.name, engine.device, engine.precision)

    @property
    def batch(self) -> int:
        """Tiles for each run of the engine: as many as were asked for, unless the bundle or memory allows others."""
        return self._loaded().batch

    def segment(self, image: Pixels, *, probabilities: bool = False, coarse: Ids | None = None) -> Segmentation:
        """Segment one image in memory.

        Args:
            image: Array (height, width, bands) in the bundle's dtype. Floats that are not finite, or beyond 1e30, have
                no data.
            probabilities: Whether probabilities are wanted.
            coarse: For a bundle that refines masks, class ids (height, width) uint8, 255 where a pixel has no class:
                what another bundle gave for the same image (docs/refining.md).

        Returns:
            Class ids, and probabilities if they are wanted.

        Raises:
            RasterError: The image has another dtype or number of bands than the bundle, or the mask does not fit it.
            InputError: The bundle refines masks and there is none, or it makes masks and there is one.
            EngineError: The engine failed.
        """
        check_refiner(self.manifest, coarse)
        image, spec = np.asarray(image), self.manifest.image
        if image.ndim != 3 or image.shape[2] != spec.bands or image.dtype != spec.dtype or 0 in image.shape:
            raise RasterError(
                expected=f"an image (height, width, {spec.bands}) of {spec.dtype}",
                found=f"{image.shape} of {image.dtype}",
            )
        source: Source = ArraySource(image)
        if coarse is not None:
            source = CoarseSource(source, CoarseArray(self._checked(coarse, source)), len(self.manifest.classes))
        with self._turn():
            rows = self.retried(
                lambda network: list(segment_rows(network, source, probabilities=probabilities, turns=self.turns))
            )
        found = [row.probabilities for row in rows if row.probabilities is not None]
        return Segmentation(
            ids=np.concatenate([row.ids for row in rows]),
            probabilities=np.concatenate(found, axis=1) if found else None,
        )

    def _checked(self, coarse: Ids, image: Source) -> Ids:
        """A coarse mask that fits an image and the classes."""
        coarse, classes, size = np.asarray(coarse), len(self.manifest.classes), (image.height, image.width)
        if coarse.shape != size or coarse.dtype != np.uint8:
            expected = f"class ids {size} of uint8, as many as the image has pixels"
            raise RasterError(subject="`coarse`", expected=expected, found=f"{coarse.shape} of {coarse.dtype}")
        if (odd := coarse[(coarse >= classes) & (coarse != NODATA)]).size:
            raise RasterError(subject="`coarse`", expected=f"class ids up to {classes - 1}, or 255", found=int(odd[0]))
        return coarse

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
            if self.manifest.refines:
                raise InputError(
                    f"bundle {self.manifest.name} refines masks, which only segment() and segment_file() do"
                )
            if not isinstance(network.engine, GpuEngine):
                raise EngineError(
                    expected="an engine on a GPU",
                    found=network.engine.name,
                    remedy="choose another backend, or use segment()",
                )
            if probabilities and self.manifest.temperature not in (None, 1):
                raise EngineError(
                    f"bundle {self.manifest.name} has a temperature, which only segment() and segment_file() apply",
                    remedy="use these, or ask for ids alone",
                )
            from .gpu.network import DeviceNetwork
            from .gpu.segment import segment_on_device

            assert isinstance(network, DeviceNetwork)
            ids, found = segment_on_device(network, image, self.turns, probabilities)
        return DeviceSegmentation(ids=ids, probabilities=found)

    def stream(
        self, frames: Iterable[Pixels], *, probabilities: bool = False, ahead: int = 2, policy: StreamPolicy = "block"
    ) -> Stream:
        """Segment frame after frame, each as `segment` does; the next ones are fetched while the engine works.

        Args:
            frames: The frames, each an array of its own as `segment` takes it. They are fetched in another thread, and
                may never end.
            probabilities: Whether probabilities are wanted.
            ahead: How many frames may wait for the engine.
            policy: What happens when one more comes: "block" lets it wait, as a video wants; "drop-oldest" drops the
                one that has waited longest, so that masks of a camera are never late.

        Returns:
            An iterator over frames with their masks, which counts dropped frames and knows percentiles of latency.

        Raises:
            InputError: There is no such policy, or no frame may wait.
        """
        return Stream(frames, partial(self.segment, probabilities=probabilities), ahead, policy)

    def segment_file(
        self,
        image: Place,
        paths: Paths,
        *,
        bands: Sequence[int] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        memory: int | None = None,
        on_bad_block: OnBadBlock = "fail",
        scale_range: str | None = None,
        resolution: str | float = "auto",
        where: Where = EVERYWHERE,
        coarse: str | Path | None = None,
        part: str | None = None,
        parts: str | None = None,
        progress: TileProgress | None = None,
        stopwatch: Stopwatch = STOPPED,
    ) -> Report:
        """Segment one raster into files: all of them appear together once all are complete, or none does.

        Memory does not grow with the size of the raster. What is finished is kept in a folder beside the mask until the
        outputs are there, so that a run that ended early can go on (docs/jobs.md).

        Args:
            image: The raster: a file, the name that GDAL gives a part of a container (a subdataset), or a `Scene` of
                several rasters.
            paths: The files to write: the mask is a GeoTIFF of class ids that keeps the georeference.
            bands: Numbers of the bands to use, from 1, in the bundle's order; None for all but alpha.
            overwrite: Whether files that exist are replaced.
            resume: Whether to go on where an earlier run of the same outputs ended, if there is one; else its shards
                are removed.
            memory: Most bytes of memory that the process may take, its engine included. A run that cannot keep to it is
                refused before it starts; one that takes more all the same ends, and can go on with `resume`.
            on_bad_block: What becomes of a block of the raster that cannot be read: "fail" ends the run, "nodata"
                leaves it without data, lists it in the report and warns.
            scale_range: Which values of the raster become the lowest and the highest of the bundle's: "MIN,MAX",
                "percentile:2,98" or "metadata" (docs/rasters.md); None takes them as they are.
            resolution: At which distance from pixel to pixel the network works: metres on the ground; "auto" for that
                of its training images, where the bundle states one and the raster's is more than 1.5 times larger or
                smaller; or "native" for the raster's own. Outputs are on the raster's own grid in any case.
            where: Which part of the raster is wanted: a window, a box of coordinates or a file of polygons. Outputs
                cover the box around it, and their pixels are those of a run over the whole raster.
            coarse: For a bundle that refines masks, the mask that another bundle made of the same raster, in full
                (docs/refining.md).
            part: Which of several parts of the work is done, as "3/20"; what it makes is left in NAME.fctl-parts beside
                the mask, for `assemble_parts` to make the outputs of all parts (docs/scale.md). None does all of it.
            parts: The URL of a folder in a store for what parts make, instead of a folder beside the mask.
            progress: Called with tiles that are done and tiles in all.
            stopwatch: What takes the time of each stage (docs/benchmarks.md).

        Returns:
            What came of the image.

        Raises:
            RasterError: The raster is missing, damaged, or does not fit the bundle.
            InputError: An output is the image itself, no sink has its name, or nothing that is wanted lies on it.
            OutputError: A file exists already or cannot be written, another run writes it, or the run to resume was
                asked something else.
            EngineError: The engine failed.
        """
        self._loaded()
        job = FileJob(
            image=placed(image), paths=paths, bands=bands, overwrite=overwrite, resume=resume, memory=memory,
            on_bad_block=on_bad_block, scale_range=scale_range, resolution=str(resolution), where=where,
            coarse=None if coarse is None else Path(coarse), access=self.access,
            share=Share.parsed(part) if part else None, parts=parts, progress=progress, stopwatch=stopwatch,
        )  # fmt: skip
        with self._turn(), stopwatch.stage("other"):
            return run_file(self, job)

    def estimate(
        self,
        image: Place,
        paths: Paths,
        *,
        bands: Sequence[int] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        memory: int | None = None,
        scale_range: str | None = None,
        resolution: str | float = "auto",
        where: Where = EVERYWHERE,
        coarse: str | Path | None = None,
        trial: bool = False,
    ) -> Estimate:
        """What `segment_file` would take with the same arguments, without running it.

        Args:
            image: The raster, as for `segment_file`.
            paths: The files that would be written.
            bands: Numbers of the bands to use, from 1; None for all but alpha.
            overwrite: Whether files that exist would be replaced.
            resume: As for `segment_file`; the estimate is that of a whole run.
            memory: As for `segment_file`.
            scale_range: As for `segment_file`.
            resolution: As for `segment_file`.
            where: As for `segment_file`.
            coarse: As for `segment_file`.
            trial: Whether to segment a few batches of the raster, which tells how long it will take and how much memory
                the process will need with its engine.

        Returns:
            The estimate.

        Raises:
            RasterError: The raster is missing, or does not fit the bundle.
            InputError: An output is the image itself, no sink has its name, or nothing that is wanted lies on it.
            OutputError: A file exists already.
        """
        job = FileJob(
            image=placed(image), paths=paths, bands=bands, overwrite=overwrite, resume=resume, memory=memory,
            scale_range=scale_range, resolution=str(resolution), where=where,
            coarse=None if coarse is None else Path(coarse), access=self.access,
        )  # fmt: skip
        with self._turn():
            return estimate_file(self, job, trial=trial)

    def resume_batch(self, batch: int) -> None:
        """Go on in the batch of an earlier run, unless another one was asked for.

        Where several threads share a patch, the last bit of a score may depend on how many do.

        Args:
            batch: Patches for each run of the engine.

        Raises:
            EngineError: The engine cannot be opened so.
        """
        network = self._loaded()
        if self._free_batch and batch != network.batch:
            self._reopen(network, batch)

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

    def retried(self, work: Callable[[EngineNetwork], _Found]) -> _Found:
        """Do some work with the network; where memory runs out, again with half the batch."""
        while True:
            network = self._loaded()
            try:
                return work(network)
            except MemoryError as error:
                if network.batch == 1 or self.manifest.fixed_batch:
                    raise
                log.warning("out of memory at batch %d, going on with %d: %s", network.batch, network.batch // 2, error)
                self._reopen(network, network.batch // 2)
            except EngineError:
                if self._isolate:
                    self._reopen(network, network.batch)  # its process may have ended: the next image is another matter
                raise

    def _reopen(self, network: EngineNetwork, batch: int) -> None:
        """Open the network anew, in the same engine."""
        network.close()
        self._network = None  # in case that the next line fails
        self._network = open_network(
            self.bundle, self.engine.name, self.engine.precision, batch, False, isolate=self._isolate, once=self.once
        )
        self.engine = self._network.engine
