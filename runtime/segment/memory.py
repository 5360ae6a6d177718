"""How much memory a run over a file takes, told before it starts, and panels that keep it within a limit."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bundle.manifest import Context, Manifest
from ..errors import InputError
from ..raster.cog import MEMORY as COPYING
from ..raster.places import file_of
from ..raster.source import RasterSource
from ..raster.spool import needs_spooling, spool_memory
from ..raster.writer import BLOCK
from ..tiling.contexts import Extent
from ..tiling.lattice import Lattice
from ..tiling.merge import PIECE
from ..tiling.rescale import Rescale
from ..tiling.rescaled import SIDE, resampling_memory
from ..tiling.shrunken import SIDE as SHRUNKEN
from ..tiling.shrunken import divides
from ..tiling.windows import Grid, Window
from .area import Area
from .batches import rows_in_work, span_of
from .picture import PictureScale
from .shards.mosaic import COLUMNS
from .shards.plan import PANEL, ShardPlan

_LEAST_CACHE = 8 << 20  # bytes of decoded blocks
_MOST_CACHE = 256 << 20  # beyond it, a raster in awkward blocks is copied first
_SLACK = 1.15  # what Python, NumPy and the allocator add


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run has to hold, beside the raster itself.

    Attributes:
        manifest: The bundle's manifest.
        batch: Patches at once.
        probabilities: Whether probabilities are needed.
        picture: Whether a small picture of the raster is needed.
        votes: Whether it is counted how far tiles agree.
        lattices: By name, the windows of contexts that are encoded once a raster.
        turns: In how many ways each patch is segmented.
        outputs: Bytes of memory that outputs take while they are made.
        area: What is wanted of the raster; None for all of it.
        rescale: The grid of the raster, and that in which the network works; None where they are the same.
        grid: The tiles that are made here; None for all.
    """

    manifest: Manifest
    batch: int
    probabilities: bool
    picture: bool
    votes: bool = False
    lattices: Mapping[str, Lattice] = field(default_factory=dict)
    turns: int = 1
    outputs: int = 0
    area: Area | None = None
    rescale: Rescale | None = None
    grid: Grid | None = None

    def features(self, width: int) -> int:
        """Bytes of the features of contexts that are encoded once a raster, for so many columns of it.

        The windows of some rows of the lattice are held until the tiles below no longer need them, in each turn.
        """
        found = 0
        for context in self.manifest.contexts:
            lattice = self.lattices.get(context.name)
            if lattice:
                channels = next(t.shape[1] for t in self.manifest.segmenter.inputs if t.name == context.input)
                rows = -(-(lattice.cells.count + 1) // lattice.kept) + 2  # a batch may begin in one row of tiles
                columns = -(-(width + lattice.window) // int(lattice.step)) + 1
                found += 4 * int(channels) * lattice.own.count**2 * rows * columns * self.turns
        return found

    def scenes(self, width: int, raster: Extent) -> int:
        """Bytes of what is held of contexts that patches share, for so many columns of a raster.

        These are the features of two rows of scene blocks, in each turn, with the patches that are gathered, and a copy
        of the features for each patch of a batch.
        """
        manifest, found = self.manifest, 0
        sizes = {tensor.name: math.prod(map(int, tensor.shape[1:])) for tensor in manifest.segmenter.inputs}
        for context in manifest.contexts:
            if not (context.encoder and context.window.shared):
                continue
            rows, across = context.window.blocks(manifest.tile, raster)
            columns = min(across, -(-width // (context.scene - manifest.tile)) + 1) if context.scene else across
            features = 4 * sum(sizes[name] for name in context.inputs)
            found += features * (min(rows, 2) * columns * self.turns + self.batch)
            if gathering := context.gathering:
                block = context.window.around(Window(0, 0, manifest.tile, manifest.tile), raster)
                patches = len(Grid.over(block.height, block.width, manifest.tile, gathering.plan)) + self.batch
                pixel = manifest.input.bands * np.dtype(manifest.input.dtype).itemsize
                found += patches * pixel * manifest.tile**2 * min(rows, 2) * columns
                taken = next(graph for graph in manifest.graphs if graph.role == context.encoder).inputs
                pasted = (tensor for tensor in taken if tensor.name != "window")
                found += 3 * 4 * sum(math.prod(map(int, tensor.shape[1:])) for tensor in pasted)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The bytes of a run beside those of Python and its engine.

    Attributes:
        plan: The shards that it is for.
        part: The part of the raster that is read, but for contexts that many patches share.
        spool: Whether that part is copied into small blocks first.
        cache: Decoded blocks of the raster that GDAL holds.
        working: Pixels of the working grid that are held, where the raster is worked at in another size than its own.
        segmenting: The most while patches are segmented, the cache included.
        spooling: The most while the raster is copied.
        assembling: The most while the outputs are made of finished shards.
    """

    plan: ShardPlan
    part: Window
    spool: bool
    cache: int
    working: int
    segmenting: int
    spooling: int
    assembling: int

    @property
    def most(self) -> int:
        """The most at any time."""
        return max(self.segmenting, self.spooling, self.assembling)


def fitting(
    load: Load, raster: RasterSource, grid: Grid, limit: int | None, plan: ShardPlan | None = None
) -> Footprint:
    """The widest panels that a limit allows.

    Args:
        load: What the run has to hold.
        raster: The raster.
        grid: Its tiles.
        limit: Most bytes beside those of Python and its engine; None for the usual panels.
        plan: Panels and shards that must stay as they are; None to choose them.

    Returns:
        What it takes.

    Raises:
        InputError: The narrowest panels take more.
    """
    if limit is not None and not resident():
        raise InputError("this system does not tell how much memory a process takes", remedy="leave `memory` out")
    panel = PANEL
    while True:
        found = footprint(load, raster, plan or ShardPlan.over(grid, panel))
        if limit is None or found.most <= limit:
            return found
        if plan or panel < 2 * grid.tile or found.segmenting < found.most:  # narrower panels would not help
            raise InputError(
                subject="`memory`", expected=f"{megabytes(found.most)} more than what the engine takes, at least",
                found=f"{megabytes(max(limit, 0))} more", remedy="allow more, or choose a smaller batch",
            )  # fmt: skip
        panel //= 2


def footprint(load: Load, raster: RasterSource, plan: ShardPlan) -> Footprint:
    """What a run takes with a plan.

    Args:
        load: What the run has to hold.
        raster: The raster.
        plan: Its shards.

    Returns:
        What it takes.
    """
    manifest, grid, classes = load.manifest, plan.grid, len(load.manifest.classes)
    box, outlines = (load.area.box, load.area.memory) if load.area else (Window(0, 0, raster.height, raster.width), 0)
    rescale = load.rescale or Rescale(raster.height, raster.width, raster.height, raster.width)
    width = max(shard.computed.width for shard in plan.shards)
    again = rows_in_work(manifest, load.lattices)
    rows, columns = again + manifest.tile, width + again - manifest.tile  # between two reads of a block
    working_extent = Window(0, 0, rescale.rows, rescale.columns)
    span = span_of(manifest, load.grid or grid, working_extent, load.lattices)
    part = rescale.covering(span if rescale.is_identity else span.aligned(SIDE, rescale.rows, rescale.columns))
    rows = min(rows, span.height)
    pixel = raster.bands * raster.sample_bytes
    cut = manifest.input.bands * raster.sample_bytes  # with the bands of a coarse mask
    squares = _touched(working_extent, (SIDE, SIDE), rows, columns)
    working = 0 if rescale.is_identity else squares * SIDE * SIDE * (pixel + 1)
    read = (rows, columns) if rescale.is_identity else _read_again(raster, rescale, rows, columns)
    spool = needs_spooling(raster, read[1], read[0], _MOST_CACHE, part)
    block, block_bytes = ((BLOCK, BLOCK), BLOCK * BLOCK * pixel) if spool else (raster.block_shape, raster.block_bytes)
    cache = max(_LEAST_CACHE, _touched(raster, block, *read) * block_bytes)
    if manifest.refines:
        cache += _touched(raster, (BLOCK, BLOCK), *read) * BLOCK * BLOCK  # of the coarse mask
    whole = [int(found.span) ** 2 for found in load.lattices.values()]
    for context in manifest.contexts:
        window = context.window.around(Window(0, 0, manifest.tile, manifest.tile), grid)
        together = 0 if context.window.shared else (load.batch - 1) * manifest.tile  # of a batch, cut in one go
        whole.append(window.height * (window.width + together))
    scene = cut * max(whole, default=0)  # of a context, before it is shrunk
    shrunken = cut * sum(_shrunken(context, manifest.tile, columns) for context in manifest.contexts)
    sums = 4 * classes * manifest.tile * width * (2 if load.votes else 1)
    piece = 4 * manifest.tile * min(PIECE, width) * (2 * classes + 4 + (4 * classes if load.probabilities else 0))
    sides = [manifest.tile, *(context.size for context in manifest.contexts)]
    sides += [lattice.side for lattice in load.lattices.values()]
    batches = load.batch * (3 * cut * sum(side * side for side in sides) + 12 * classes * manifest.tile**2)
    held = load.features(columns) + load.scenes(columns, working_extent)
    picture = PictureScale.of(box).size if load.picture else (0, 0)
    drawn = 40 * math.prod(picture)
    ids = 2 * manifest.tile * box.width
    block_of_all = BLOCK * min(COLUMNS, box.width) * (2 + (12 * classes if load.probabilities else 0))
    return Footprint(
        plan=plan,
        part=part,
        spool=spool,
        cache=cache,
        working=working,
        segmenting=int(_SLACK * (2 * sums + piece + batches + 2 * scene + shrunken + cache + working + held + outlines))
        + (0 if rescale.is_identity else resampling_memory(rescale, raster.bands, classes if load.probabilities else 0))
        + (raster.block_memory if spool else 0),
        spooling=spool_memory(raster) + _stored_block(raster) if spool else 0,
        assembling=int(_SLACK * (ids + block_of_all + COPYING + drawn + outlines + load.outputs)),
    )


def _shrunken(context: Context, tile: int, columns: int) -> int:
    """Pixels of the shrunken blocks that are held of a context which is centred on its tile, for so many columns."""
    window = context.window.around(Window(0, 0, tile, tile), Window(0, 0, tile, tile))
    if context.window.shared or not divides(window, context.size, context.resampling):
        return 0
    return (columns * context.size // window.height + 2 * SHRUNKEN) * (context.size + 2 * SHRUNKEN)


def _stored_block(raster: RasterSource) -> int:
    """Bytes of a block as it lies in the file, on average."""
    try:
        size = file_of(raster.name).stat().st_size
    except OSError:
        return raster.block_bytes
    rows, columns = raster.block_shape
    return size * rows * columns // (max(rows, raster.height) * max(columns, raster.width))


def _read_again(raster: RasterSource, rescale: Rescale, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a raster between two reads of a block, where working pixels are made of it tile by tile.

    Neighbouring tiles share the blocks between them, and one wide block is shared by all tiles of a row.
    """
    side = rescale.down(SIDE), rescale.across(SIDE)
    if raster.block_shape[1] > 2 * side[1]:
        return rescale.down(rows), rescale.across(columns)
    return side[0], rescale.across(min(PIECE, columns))


def _touched(raster: Extent, block: tuple[int, int], rows: int, columns: int) -> int:
    """How many blocks some rows and columns touch at most."""
    counts = [
        min(-(-length // side) + 1, -(-whole // side))
        for length, side, whole in zip((rows, columns), block, (raster.height, raster.width), strict=True)
    ]
    return math.prod(counts)


def resident() -> int:
    """Bytes of memory that the process takes now, an engine in a child process included; 0 where nobody tells."""
    try:
        children = [word for path in Path("/proc/self/task").glob("*/children") for word in path.read_text().split()]
        pages = sum(_pages(process) for process in ("self", *children))
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_of(process: str) -> int:
    """Bytes of memory that another process takes now, by its number; 0 where nobody tells."""
    return _pages(process) * os.sysconf("SC_PAGE_SIZE")


def _pages(process: str) -> int:
    """Pages of memory that a process takes; 0 for one that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def check_limit(memory: int | None) -> None:
    """See that the process keeps to its limit, where it has one.

    Raises:
        InputError: It does not.
    """
    if memory is not None and resident() > memory:
        raise InputError(
            subject="`memory`", expected=f"at most {megabytes(memory)}", found=megabytes(resident()),
            remedy="go on with `resume` and a larger limit or a smaller batch",
        )  # fmt: skip


def megabytes(size: int) -> str:
    """A size in megabytes, in words."""
    return f"{-(-size // 1_000_000):,} MB"


def parsed_size(argument: str, text: str) -> int:
    """Bytes of a size such as "600M" or "2.5G".

    Args:
        argument: What the size is for, for the error.
        text: A number, and K, M or G for thousands, millions and billions of bytes.

    Returns:
        Bytes.

    Raises:
        InputError: The text is anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)I?B?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise InputError(subject=argument, expected="a size such as 600M or 2G", found=repr(text))
    return int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]])
