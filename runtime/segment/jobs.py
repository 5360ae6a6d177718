"""What a run over a file is asked, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..bundle.manifest import Manifest
from ..bundle.store import Bundle
from ..engines.base import Engine
from ..errors import InputError
from ..progress import TileProgress
from ..raster.access import Access
from ..raster.blocks import OnBadBlock
from ..raster.fingerprint import fingerprint
from ..raster.places import Place, Scene, file_of
from ..raster.resolution import Resolution
from ..stopwatch import STOPPED, Stopwatch
from ..tiling.turns import Turn
from .levels import Keep
from .maker import Maker
from .network import Network
from .outputs import files_of, sinks_of
from .results import Paths
from .shards.folder import SOURCE
from .shards.share import Share
from .sinks import Sink, needs_confidence
from .where import EVERYWHERE, Where


class Worker(Protocol):
    """Whoever owns the network of a run."""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        ...

    @property
    def engine(self) -> Engine:
        """What runs it."""
        ...

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The ways in which each patch is segmented."""
        ...

    @property
    def once(self) -> bool:
        """Whether contexts are encoded once a raster."""
        ...

    @property
    def batch(self) -> int:
        """Patches at once."""
        ...

    def resume_batch(self, batch: int) -> None:
        """Go on in the batch of an earlier run, unless another one was asked for."""
        ...

    def retried(self, work: Callable[[Network], None]) -> None:
        """Do some work with the network; where memory runs out, again with half the batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """What `Segmenter.segment_file` is asked; see there.

    Attributes:
        image: The raster.
        paths: The files to write.
        bands: Numbers of the bands to use, from 1; None for all but alpha.
        overwrite: Whether files that exist are replaced.
        resume: Whether to go on where an earlier run ended.
        memory: Most bytes of memory of the process; None for no limit.
        on_bad_block: What becomes of a block that cannot be read.
        scale_range: Which values become the lowest and the highest of the network's; None for samples as they are.
        resolution: At which distance from pixel to pixel the network works: "auto", "native" or metres.
        where: Which part of the raster is wanted.
        coarse: The mask that a refiner refines; None for other bundles.
        access: Which images may be opened.
        share: Which part of the shards is made, and left for `assemble_parts`; None for all of them, and the outputs.
        parts: The URL of a folder in a store where parts lie; None for a folder beside the mask.
        progress: Called with tiles that are done and tiles in all.
        stopwatch: What takes the time of each stage.
    """

    image: Place
    paths: Paths
    bands: Sequence[int] | None = None
    overwrite: bool = False
    resume: bool = False
    memory: int | None = None
    on_bad_block: OnBadBlock = "fail"
    scale_range: str | None = None
    resolution: str = "auto"
    where: Where = EVERYWHERE
    coarse: Path | None = None
    access: Access = field(default_factory=Access)
    share: Share | None = None
    parts: str | None = None
    progress: TileProgress | None = None
    stopwatch: Stopwatch = STOPPED

    def __post_init__(self) -> None:
        sinks_of(self.paths)  # raises where one is not known
        Resolution.parsed(self.resolution)  # raises where it means nothing
        if self.where.aoi is not None and Path(self.where.aoi).resolve() in map(Path.resolve, files_of(self.paths)):
            raise InputError(f"{self.where.aoi} would hold the polygons and an output", remedy="choose another `out`")
        if self.coarse is not None and self.coarse.resolve() in map(Path.resolve, files_of(self.paths)):
            raise InputError(f"{self.coarse} is the coarse mask and an output", remedy="choose another `out`")

    @property
    def remote(self) -> bool:
        """Whether the image may lie on a server or in an archive."""
        return self.access.sources == "any"

    @property
    def sinks(self) -> list[tuple[Sink, Path]]:
        """The outputs: how each is made, and where it goes."""
        return sinks_of(self.paths)

    @property
    def keep(self) -> Keep:
        """What outputs need of the probabilities that the network gives."""
        shown = any(sink.needs_probabilities for sink, _ in self.sinks)
        options, confidence = self.paths.options, any(needs_confidence(sink) for sink, _ in self.sinks)
        return Keep(
            probabilities=options.probability_type if shown else None,
            confidence=confidence,
            votes=confidence and options.confidence_type == "agreement",
        )

    @property
    def probabilities(self) -> bool:
        """Whether an output needs probabilities."""
        return self.keep.needed

    @property
    def picture(self) -> bool:
        """Whether an output needs a small picture of the raster."""
        return any(sink.needs_picture for sink, _ in self.sinks)


def _named(image: Place) -> list[str]:
    """What a request calls an image: its file and the name of a part of it, or the files of a scene."""
    if isinstance(image, Scene):
        return [str(file_of(member).resolve()) if isinstance(member, Path) else member for member in image.members]
    return [str(file_of(image).resolve()), image if isinstance(image, str) else ""]


def _output_named(path: Path, job: FileJob) -> str:
    """What a request calls an output; where parts lie in a store, machines make outputs in folders of their own."""
    return path.name if job.parts and path.parent == job.paths.mask.parent else str(path.resolve())


def maker_of(worker: Worker) -> Maker:
    """What computes the shards of a worker's runs."""
    return Maker.of(worker.bundle, worker.engine, len(worker.turns), worker.once)


def request_of(maker: Maker, manifest: Manifest, job: FileJob) -> dict[str, object]:
    """What a run over a file is asked, as far as the bytes of its outputs depend on it.

    Args:
        maker: What computes its shards.
        manifest: The manifest of the bundle.
        job: What is asked.

    Returns:
        Values that JSON keeps as they are, by names that a message can use.

    Raises:
        RasterError: The image is missing, or may not be read.
        InputError: The file of polygons cannot be read.
    """
    scenes = {context.name: context.scene for context in manifest.contexts if context.scene}
    return {
        "image": _named(job.image),
        **maker.request(),
        "scene size": scenes,
        "bands": list(job.bands) if job.bands else None,
        "outputs": {name: _output_named(path, job) for name, path in job.paths.by_sink().items()},
        **job.paths.options.request(),
        SOURCE: fingerprint(job.image).as_dict(),
        "bad blocks": job.on_bad_block,
        "scale range": job.scale_range,
        "resolution": Resolution.parsed(job.resolution).told(manifest.input.ground_sample_distance),
        **job.where.request(),
        **({"coarse mask": fingerprint(job.coarse).as_dict()} if job.coarse else {}),
    }
