"""Which precision and which batch are the fastest on this machine: a short trial, whose figures are kept.

A trial runs noise, because the time that a network takes does not depend on what it sees. Its figures belong to the
bundle's graphs, the engines and their versions, the processor and its cores.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..bundle.store import Bundle
from ..choices import BatchChoice, PrecisionChoice
from ..engines.base import GpuEngine, RunPrecision
from ..engines.choose import choose_engine, engine_version
from ..engines.kept import Key, keep, kept
from ..engines.processor import adds_int8_exactly, cores, identity
from ..errors import EngineError
from ..tiling.sources import ArraySource
from .batches import PatchBatch, cut_batch, grid_of
from .network import FeatureCache, Network
from .opening import load_network

log = logging.getLogger(__name__)

USUAL_BATCH = 4
"""Patches at once where nobody asks for another number."""

_KIND = "trials"  # of what is kept
_MOST = 16  # patches at once that are tried
_TIMES, _ENOUGH = 5, 0.5  # a setting is run so often, or until it has taken so many seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a bundle may be run.

    Attributes:
        engine: The engine's name.
        precision: In what precision.
        batch: Patches at once.
    """

    engine: str
    precision: RunPrecision
    batch: int


class Chosen(NamedTuple):
    """How a bundle is run.

    Attributes:
        precision: In what precision.
        batch: Patches at once.
    """

    precision: RunPrecision
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a network is opened for a trial, beside its setting.

    Attributes:
        once: Whether contexts that can be are encoded once a raster.
        isolate: Whether the engine runs in a child process.
    """

    once: bool = False
    isolate: bool = False


def fastest(bundle: Bundle, backend: str, precision: PrecisionChoice, batch: BatchChoice, opening: Opening) -> Chosen:
    """The fastest way to run a bundle as asked, on this machine.

    Args:
        bundle: The bundle.
        backend: The engine's name, or "auto".
        precision: In what precision to run; "auto" for the fastest that the bundle was validated for.
        batch: Patches at once; "auto" for the number with which a patch takes least time.
        opening: How the network will be opened.

    Returns:
        What was asked where nothing is left open, else what is fastest. On a GPU nothing is tried, because graphs are
        built there for a batch: it is `USUAL_BATCH`, and fp16 where the bundle has it.

    Raises:
        EngineError: No engine can run the bundle so.
        InputError: There is no engine of that name.
    """
    if precision != "auto" and batch != "auto":
        return Chosen(precision, batch)
    settings = _settings(bundle, backend, precision, batch, opening)
    seconds = _seconds(bundle, settings, opening) if len(settings) > 1 else [0.0]
    best = settings[seconds.index(min(seconds))]
    if len(settings) == 1:
        log.info("%s at batch %d is taken: bundle and machine leave no other choice", best.precision, best.batch)
        return Chosen(best.precision, best.batch)
    told = ", ".join(
        f"{one.precision} at batch {one.batch} {1000 * taken:.1f}"
        for one, taken in zip(settings, seconds, strict=True)
        if math.isfinite(taken)
    )
    log.info("%s at batch %d is taken, the fastest here (ms a patch: %s)", best.precision, best.batch, told)
    return Chosen(best.precision, best.batch)


def _settings(
    bundle: Bundle, backend: str, precision: PrecisionChoice, batch: BatchChoice, opening: Opening
) -> list[Setting]:
    """All that are to be tried, the safest first."""
    given = bundle.manifest.fixed_batch or (None if batch == "auto" else batch)
    settings = list[Setting]()
    for wanted in validated(bundle) if precision == "auto" else [precision]:
        try:
            engine = choose_engine(backend, wanted, bundle, batch=given or USUAL_BATCH, isolate=opening.isolate)
        except EngineError:
            if precision != "auto" or wanted == "fp32":
                raise
            continue  # it does not run this precision here
        with closing(engine):
            if isinstance(engine, GpuEngine):
                return [Setting(engine=engine.name, precision=wanted, batch=given or USUAL_BATCH)]
            if wanted != "fp16" or precision != "auto":  # a CPU computes fp16 graphs in fp32
                sizes = [given] if given else _batches()
                settings += [Setting(engine=engine.name, precision=wanted, batch=size) for size in sizes]
    return settings


def validated(bundle: Bundle) -> Iterator[RunPrecision]:
    """The precisions that a bundle was validated for, in the order in which "auto" asks engines for them.

    Args:
        bundle: The bundle.

    Yields:
        fp16 and int8 where there are graphs, which passed their gates when they were made, and fp32. int8 only where
        the processor adds it exactly, and bf16 where it passed its own gate.
    """
    manifest = bundle.manifest
    if "fp16" in manifest.precisions:
        yield "fp16"
    yield "fp32"
    if manifest.bf16 and manifest.bf16.passed:
        yield "bf16"
    if "int8" in manifest.precisions and adds_int8_exactly():
        yield "int8"


def _batches() -> list[int]:
    """Batches worth trying: one patch for all cores, and numbers that give each core as much as the others."""
    return sorted({1, USUAL_BATCH, min(cores(), _MOST), min(2 * cores(), _MOST)})


def _seconds(bundle: Bundle, settings: Sequence[Setting], opening: Opening) -> list[float]:
    """Seconds a patch of each setting, infinite where it cannot run; from the last trial where that was kept."""
    key = _key(bundle, settings, opening)
    found = _read(kept(_KIND, key), len(settings))
    if found is None:
        log.info("trying %d ways to run bundle %s, once on this machine", len(settings), bundle.manifest.name)
        found = [_tried(bundle, setting, opening) for setting in settings]
        keep(_KIND, key, json.dumps([taken if math.isfinite(taken) else None for taken in found]).encode())
    return found


def _read(content: bytes | None, count: int) -> list[float] | None:
    """The figures of a trial, if that is what an entry holds."""
    try:
        found = json.loads(content or b"null")
        return [math.inf if taken is None else float(taken) for taken in found] if len(found) == count else None
    except (ValueError, TypeError):
        return None


def _key(bundle: Bundle, settings: Sequence[Setting], opening: Opening) -> Key:
    """What the figures of a trial depend on."""
    return {
        "graphs": sorted(graph.sha256 for graph in bundle.manifest.graphs),
        "settings": [[one.engine, engine_version(one.engine), one.precision, one.batch] for one in settings],
        "once": opening.once, "isolated": opening.isolate, "processor": identity(), "cores": cores(),
    }  # fmt: skip


def _tried(bundle: Bundle, setting: Setting, opening: Opening) -> float:
    """Seconds a patch, the least of a few runs. Of contexts that are encoded once a raster, nothing is encoded anew."""
    try:
        engine = choose_engine(setting.engine, setting.precision, bundle, batch=setting.batch, isolate=opening.isolate)
        with closing(engine):
            network = load_network(bundle, engine, setting.batch, once=opening.once)
            batch, cache = _batch_of_noise(network), FeatureCache() if opening.once else None
            taken = list[float]()
            while len(taken) <= _TIMES and sum(taken[1:]) < _ENOUGH:  # the first run warms up
                started = time.perf_counter()
                network.on_host(network.run(batch, cache=cache))
                taken.append(time.perf_counter() - started)
    except (EngineError, MemoryError) as error:
        log.debug("%s cannot run: %s", setting, error)
        return math.inf
    return min(taken[1:]) / setting.batch


def _batch_of_noise(network: Network) -> PatchBatch:
    """As many patches as a network takes, with their contexts."""
    manifest, spec = network.manifest, network.manifest.input
    side = 2 * manifest.tile
    noise = np.random.default_rng(0).integers(0, 256, (side, side, spec.bands)).astype(spec.dtype)
    tiles = tuple(grid_of(manifest, side, side).region()) * network.batch
    return cut_batch(manifest, ArraySource(noise), tiles[: network.batch], network.batch, network.lattices)
