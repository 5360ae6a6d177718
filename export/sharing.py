"""Bundles whose contexts are encoded once a raster: their graphs, and what that changes (docs/shared-contexts.md)."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

from fctl.model.config import NetworkConfig
from fctl.model.serving.shared import shared_encoder
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA, Context, GraphSpec, Manifest, Precision
from fctl.runtime.bundle.records import RecordError, decode
from fctl.runtime.bundle.store import Bundle, write_manifest
from fctl.runtime.bundle.verdicts import SharedVerdict
from fctl.runtime.errors import BundleError
from fctl.runtime.progress import StageProgress

from .compare import ComparedOn, Way, difference
from .copies import copy_files
from .reshape import reshaped

log = logging.getLogger(__name__)

_ENGINE = "onnxruntime"


def share_contexts(bundle: Bundle, out: Path, on: ComparedOn, progress: StageProgress | None = None) -> Bundle:
    """Copy a bundle, with graphs that encode its contexts once a raster, and what that changes on some images.

    Args:
        bundle: A bundle with centred contexts.
        out: The folder of the copy.
        on: What to compare on.
        progress: Called with the patches of each run.

    Returns:
        The copy. `contexts="auto"` encodes contexts once a raster where few enough pixels changed their class, or
        little enough mIoU was lost (`SharedVerdict.passed`).

    Raises:
        BundleError: The bundle has no contexts that can be encoded so, or their graphs depend on the size of a window.
        InputError: There are no images.
        RasterError: An image cannot be read, or does not fit the bundle.
        OutputError: `out` exists already, or cannot be written. After any error nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    with atomic_write(out) as folder:
        copy_files(bundle.folder, folder)
        manifest = replace(_with_encoders(bundle, folder), schema=SCHEMA, name=out.stem)
        write_manifest(folder, manifest)
        verdict = measured(Bundle(folder, manifest), on, progress)
        write_manifest(folder, replace(manifest, sharing=verdict))
    return Bundle(out, replace(manifest, sharing=verdict))


def measured(bundle: Bundle, on: ComparedOn, progress: StageProgress | None = None) -> SharedVerdict:
    """Compare contexts that are encoded once a raster with exact ones, in ONNX Runtime.

    Args:
        bundle: The bundle.
        on: What to compare on; labelled images alone, where there are some.
        progress: Called with the patches of each run.

    Returns:
        The figures.

    Raises:
        InputError: There are no images.
        RasterError: An image cannot be read, or does not fit the bundle.
    """
    ways = Way(engine=_ENGINE), Way(engine=_ENGINE, once=True)
    verdict = SharedVerdict(**asdict(difference(bundle, ways, on, progress)))
    log.info("shared contexts: %s", verdict.in_words)
    return verdict


def _with_encoders(bundle: Bundle, folder: Path) -> Manifest:
    """The manifest of a copy of a bundle, in which centred contexts have encoders of larger windows."""
    manifest = bundle.manifest
    if any(context.sharing for context in manifest.contexts):
        return manifest
    config = _network_of(bundle)
    graphs, contexts = {(g.role, g.precision): g for g in manifest.graphs}, list[Context]()
    for context, own in zip(manifest.contexts, config.contexts, strict=True):
        sharing = shared_encoder(config, own, context.encoder, framed=True)
        if sharing:
            for precision in _own_graphs(manifest):
                if (sharing.encoder, precision) not in graphs:
                    path, graph = bundle.graph(str(context.encoder), precision)
                    target = folder / path.name.replace(str(context.encoder), sharing.encoder, 1)
                    made = reshaped(path, graph, sharing.size, sharing.own.count, target)
                    graphs[sharing.encoder, precision] = replace(made, role=sharing.encoder)
        contexts.append(replace(context, sharing=sharing))
    if not any(context.sharing for context in contexts):
        raise BundleError(
            "none of its contexts can be encoded once a raster: that takes a graph of its own for a window around the "
            "patch, and windows that start at whole pixels", subject=bundle.folder,
        )  # fmt: skip
    return replace(manifest, graphs=_in_order(tuple(graphs.values())), contexts=tuple(contexts))


def _own_graphs(manifest: Manifest) -> list[Precision]:
    """The precisions whose features have a dtype of their own; int8 takes the graphs of fp32."""
    return [precision for precision in manifest.precisions if precision != "int8"]


def _in_order(graphs: tuple[GraphSpec, ...]) -> tuple[GraphSpec, ...]:
    """Graphs by precision, segmenters last, as an export has them."""
    precisions = list(dict.fromkeys(graph.precision for graph in graphs))
    return tuple(sorted(graphs, key=lambda graph: (precisions.index(graph.precision), graph.role == "segmenter")))


def _network_of(bundle: Bundle) -> NetworkConfig:
    """How the network of a bundle was built."""
    try:
        return decode(NetworkConfig, bundle.manifest.network)
    except RecordError as error:
        raise BundleError(
            "only networks of fctl say where the cells of their features lie, which shared contexts need",
            subject=bundle.folder,
        ) from error
