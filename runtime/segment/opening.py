"""The network of a bundle, in the engine that was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace

from ..bundle.store import Bundle
from ..engines.base import Engine, GpuEngine, HostEngine, RunPrecision
from ..engines.choose import choose_engine
from ..errors import DeviceMemoryError, InputError
from .host import HostNetwork
from .network import EngineNetwork
from .selfcheck import self_check

log = logging.getLogger(__name__)


def load_network(bundle: Bundle, engine: Engine, batch: int) -> EngineNetwork:
    """Load a bundle's graphs where its engine works.

    Args:
        bundle: The bundle.
        engine: The engine; the network closes it.
        batch: Patches at once.

    Returns:
        The network, tried once on a GPU.

    Raises:
        EngineError: The engine refuses a graph.
        DeviceMemoryError: The batch is too large for the GPU's memory.
    """
    if isinstance(engine, GpuEngine):
        from .gpu.network import DeviceNetwork  # only here, so that a machine without a GPU never loads it

        return DeviceNetwork(bundle, engine, batch)
    assert isinstance(engine, HostEngine)
    return HostNetwork(bundle, engine, batch)


def open_network(
    bundle: Bundle, backend: str, precision: RunPrecision, batch: int, build: bool, *, isolate: bool = False
) -> EngineNetwork:
    """Choose an engine and load a bundle's graphs into it; where memory is too small, in a smaller batch.

    What the engine has to say of the run (`Engine.notes`) is logged as warnings. An engine that the parity gate did not
    see is tried on the bundle's own patch first.

    Args:
        bundle: The bundle.
        backend: The engine's name, or "auto".
        precision: In what precision to run.
        batch: Patches at once.
        build: Whether engines of TensorRT that are missing may be built.
        isolate: Whether the engine, one of the CPU, runs in a child process, so that a graph which ends the engine with
            a signal is an error here.

    Returns:
        The network.

    Raises:
        InputError: An engine for GPUs was asked for, which cannot be isolated.
        EngineError: No engine can run the bundle so, or the engine computes something else than the network.
    """
    batch = bundle.manifest.fixed_batch or batch
    build = build and backend != "auto"  # nor when a smaller batch is tried in the engine that "auto" took
    halvings: list[str] = []
    while True:
        engine = choose_engine(backend, precision, bundle, batch=batch, build=build, isolate=isolate)
        backend = engine.name  # a smaller batch is for the same one
        try:
            network = load_network(bundle, engine, batch)
        except DeviceMemoryError as error:
            engine.close()
            if batch == 1 or bundle.manifest.fixed_batch:
                raise
            halvings.append(f"out of memory at batch {batch}, trying {batch // 2}: {error}")
            batch //= 2
        except BaseException:
            engine.close()
            raise
        else:
            try:
                self_check(network)
            except BaseException:
                network.close()
                raise
            engine.notes += halvings
            for note in engine.notes:
                log.warning("%s", note)
            return network


def with_scene_size(bundle: Bundle, side: int) -> Bundle:
    """A bundle whose global contexts show scene blocks of another size.

    Args:
        bundle: The bundle.
        side: Side of a scene block in pixels.

    Returns:
        The bundle.

    Raises:
        InputError: The bundle has no global context, or the side is no larger than a tile.
    """
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
