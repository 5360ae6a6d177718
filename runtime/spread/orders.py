"""What goes from the process that leads a run to those that work, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from ..choices import BatchChoice, ContextEncoding, PrecisionChoice
from ..raster.access import Access
from ..raster.source import Measured
from ..segment.jobs import FileJob
from ..segment.maker import Maker
from ..segment.shards.journal import Done

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a bundle is opened, with the arguments of `Segmenter`.

    Attributes:
        bundle: The bundle, as whoever leads the run names it.
        digest: What tells it from other bundles: the digest of its manifest, which holds those of its graphs;
            who leads the run finds it out.
        backend: The engine.
        precision: In what precision it runs.
        batch: Patches at once.
        tta: Whether every patch is segmented in all turns.
        scene_size: Side of scene blocks in pixels; None for the bundle's own.
        build_engines: Whether missing engines of TensorRT are built.
        contexts: How contexts are encoded.
        isolate: Whether the engine runs in a child process.
        access: Which images may be opened.
        fctl: The version of fctl of whoever leads the run, who tells it.
    """

    bundle: str
    digest: str = ""
    backend: str = "auto"
    precision: PrecisionChoice = "fp32"
    batch: BatchChoice = 4
    tta: bool = False
    scene_size: int | None = None
    build_engines: bool = False
    contexts: ContextEncoding = "auto"
    isolate: bool = False
    access: Access = field(default_factory=Access)
    fctl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a worker says of itself.

    Attributes:
        maker: The bundle in its engine.
        batch: Patches at once.
    """

    maker: Maker
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All that a worker needs for the shards of one raster.

    Attributes:
        setup: How the bundle is opened.
        job: What is asked, with absolute paths.
        request: What the run's journal keeps of that.
        plan: How the raster is cut into shards.
        token: What the names of the run's shards hold.
        place: Where finished shards go: a folder, or the URL of one.
        measured: What was measured over all of the raster.
        scenes: The name under which windows of contexts that many shards need lie at that place; None where each worker
            cuts them.
        scratch: The folder for copies of the raster, which the leader removes; None for the system's own.
    """

    setup: Setup
    job: FileJob
    request: Mapping[str, object]
    plan: Mapping[str, int]
    token: str
    place: str
    measured: Measured
    scenes: str | None = None
    scratch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A shard that a worker made.

    Attributes:
        done: What the journal keeps of it.
        skipped: Tiles that were not inferred, because no pixel in them has data.
        tiles: Tiles that were in work.
        implausible: Pixels without data for a value that nobody declared, seen while the raster was copied.
    """

    done: Done
    skipped: int
    tiles: int
    implausible: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that did not work, as one line.

    Attributes:
        kind: The name of an error of fctl, or "" for any other.
        line: What went wrong, with arguments in backticks.
        worker: Where.
    """

    kind: str
    line: str
    worker: str


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_Result]):
    """What came of a task.

    Attributes:
        result: What the task returned, or why it did not.
        warnings: What the worker warned of meanwhile, with arguments in backticks.
    """

    result: _Result | Failure
    warnings: tuple[str, ...]


def absolute(path: Path) -> Path:
    """A path as any process of this machine, or of another with the same folders, understands it."""
    return path if path.is_absolute() else Path.cwd() / path


def relative(message: str) -> str:
    """A message of a worker, with paths as they were before `absolute`."""
    here = re.escape(f"{str(Path.cwd()).rstrip('/')}/")
    return re.sub(rf"(?<!\S){here}(?!vsi)", "", message)  # where a word begins, and not in URLs and names of GDAL
