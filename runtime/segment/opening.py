"""The network of a bundle, in the engine that was asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import get_args

from .. import remedies
from ..bundle.store import Bundle, bundle_argument, read_bundle
from ..choices import ContextEncoding
from ..engines.base import Engine, GpuEngine, HostEngine, RunPrecision
from ..engines.choose import choose_engine
from ..errors import DeviceMemoryError, EngineError, InputError
from .host import HostNetwork
from .network import EngineNetwork
from .selfcheck import self_check

log = logging.getLogger(__name__)


def load_network(bundle: Bundle, engine: Engine, batch: int, *, once: bool = False) -> EngineNetwork:
    """Load a bundle's graphs where its engine works.

    Args:
        bundle: The bundle.
        engine: The engine; the network closes it.
        batch: Patches at once.
        once: Whether contexts that can be are encoded once a raster instead of once for each patch.

    Returns:
        The network, tried once on a GPU.

    Raises:
        EngineError: The engine refuses a graph.
        DeviceMemoryError: The batch is too large for the GPU's memory.
    """
    if isinstance(engine, GpuEngine):
        if only := bundle.manifest.host_only:
            raise EngineError(
                f"{engine.name} keeps everything on the GPU: {only}", subject=bundle.folder,
                remedy="choose `backend` openvino or onnxruntime",
            )  # fmt: skip
        from .gpu.network import DeviceNetwork  # only here, so that a machine without a GPU never loads it

        return DeviceNetwork(bundle, engine, batch, once=once)
    assert isinstance(engine, HostEngine)
    return HostNetwork(bundle, engine, batch, once=once)


def encodes_once(bundle: Bundle, contexts: ContextEncoding) -> bool:
    """Whether contexts are encoded once a raster instead of once for each patch (docs/shared-contexts.md).

    Args:
        bundle: The bundle.
        contexts: What was asked: "exact" for once a patch, "shared" for once a raster, "auto" for the latter where the
            bundle was validated for it.

    Returns:
        Whether they are.

    Raises:
        InputError: There is no such way, or the bundle cannot encode its contexts once a raster.
    """
    if contexts not in get_args(ContextEncoding):
        raise InputError(subject="`contexts`", expected='"auto", "exact" or "shared"', found=repr(contexts))
    manifest, verdict = bundle.manifest, bundle.manifest.sharing
    able = any(context.sharing for context in manifest.contexts)
    if contexts == "shared" and not able:
        centred = any(context.encoder and not context.window.shared for context in manifest.contexts)
        raise InputError(
            f"bundle {manifest.name} has no contexts that could be encoded once a raster", subject="`contexts`",
            remedy=f"make one that has: {_sharing_command(bundle)}" if centred else "leave it out",
        )  # fmt: skip
    return contexts == "shared" or (contexts == "auto" and able and verdict is not None and verdict.passed)


def warn_of_sharing(bundle: Bundle) -> None:
    """Log a warning where contexts are encoded once a raster though nobody knows that this changes little.

    Args:
        bundle: The bundle, whose contexts are encoded so.
    """
    name, verdict = bundle.manifest.name, bundle.manifest.sharing
    if verdict is None:
        log.warning("bundle %s was not validated for shared contexts: do so with %s", name, _sharing_command(bundle))
    elif not verdict.passed:
        log.warning(
            "bundle %s did not pass with shared contexts: %.1f %% of the pixels of %s kept their class",
            name, 100 * verdict.agreement, verdict.source,
        )  # fmt: skip


def _sharing_command(bundle: Bundle) -> str:
    return remedies.export(bundle_argument(bundle.folder), share_contexts="IMAGES", out="NAME.fctl")


def open_network(
    bundle: Bundle,
    backend: str,
    precision: RunPrecision,
    batch: int,
    build: bool,
    *,
    isolate: bool = False,
    once: bool = False,
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
        once: Whether contexts that can be are encoded once a raster.

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
            network = load_network(bundle, engine, batch, once=once)
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


def bundle_of(name: str | Path, scene_size: int | None) -> Bundle:
    """Read a bundle.

    Args:
        name: A bundle folder, or "default".
        scene_size: Side of a scene block in pixels, instead of the bundle's own; None keeps that.

    Returns:
        The bundle.

    Raises:
        BundleError: The bundle is missing or damaged.
        InputError: The scene size does not fit it.
    """
    bundle = read_bundle(name)
    return bundle if scene_size is None else with_scene_size(bundle, scene_size)


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
