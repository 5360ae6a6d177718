"""Bundles whose contexts are encoded once a raster: their graphs, and what that changes (docs/shared-contexts.md)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fctl.calib.sample import find_images
from fctl.model.config import NetworkConfig
from fctl.model.serving.manifest import shared_encoder
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA, Context, GraphSpec, Manifest, Precision
from fctl.runtime.bundle.records import RecordError, decode
from fctl.runtime.bundle.store import Bundle, write_manifest
from fctl.runtime.bundle.verdicts import SharedVerdict
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import BundleError, InputError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import grid_of, rows_in_work
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.merge import NODATA

from .copies import copy_files
from .reshape import reshaped

log = logging.getLogger(__name__)

_ENGINE, _BATCH = "onnxruntime", 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """On what contexts that are encoded once a raster are compared with exact ones.

    Attributes:
        images: Images, or folders of images.
        labelled: Labelled images, which also tell how much mIoU is lost; None for none.
    """

    images: Sequence[Path] = ()
    labelled: Dataset | None = None


def share_contexts(bundle: Bundle, out: Path, options: SharedOptions, progress: StageProgress | None = None) -> Bundle:
    """Copy a bundle, with graphs that encode its contexts once a raster, and what that changes on some images.

    Args:
        bundle: A bundle with centred contexts.
        out: The folder of the copy.
        options: What to compare on.
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
        verdict = measured(Bundle(folder, manifest), options, progress)
        write_manifest(folder, replace(manifest, sharing=verdict))
    return Bundle(out, replace(manifest, sharing=verdict))


def measured(bundle: Bundle, options: SharedOptions, progress: StageProgress | None = None) -> SharedVerdict:
    """Compare contexts that are encoded once a raster with exact ones, in ONNX Runtime.

    Args:
        bundle: The bundle.
        options: What to compare on; labelled images alone, where there are some.
        progress: Called with the patches of each run.

    Returns:
        The figures.

    Raises:
        InputError: There are no images.
        RasterError: An image cannot be read, or does not fit the bundle.
    """
    verdict = (
        _on_labels(bundle, options.labelled, progress) if options.labelled else _on_images(bundle, options, progress)
    )
    log.info(
        "shared contexts: %.2f %% of %d pixels keep their class%s", 100 * verdict.agreement, verdict.pixels,
        "" if verdict.lost is None else f", {verdict.lost:+.2f} points of mIoU lost",
    )  # fmt: skip
    return verdict


def _on_images(bundle: Bundle, options: SharedOptions, progress: StageProgress | None) -> SharedVerdict:
    """Masks of both ways, compared row by row."""
    same = total = 0
    images = find_images(options.images)
    with ExitStack() as stack:
        networks = [
            stack.enter_context(
                closing(load_network(bundle, choose_engine(_ENGINE, "fp32", bundle), _BATCH, once=once))
            )
            for once in (False, True)
        ]
        for image in images:
            with ExitStack() as opened:
                runs = []
                for network in networks:
                    rows = rows_in_work(bundle.manifest, network.lattices)
                    source = opened.enter_context(open_raster(image, bundle.manifest.input, None, rows))
                    tiles = len(grid_of(bundle.manifest, source.height, source.width))
                    runs.append(segment_rows(network, source))
                for exact, shared in zip(*runs, strict=True):
                    found = exact.ids != NODATA
                    same += int(np.count_nonzero((exact.ids == shared.ids) & found))
                    total += int(np.count_nonzero(found))
            if progress:
                progress(f"both ways, {Path(image).name}", tiles, tiles)
    if not total:
        raise InputError(f"no pixel of {', '.join(map(str, options.images))} has data", remedy="choose other images")
    return SharedVerdict(
        agreement=same / total, lost=None, pixels=total, source=", ".join(Path(place).name for place in options.images),
        engine=_ENGINE,
    )  # fmt: skip


def _on_labels(bundle: Bundle, dataset: Dataset, progress: StageProgress | None) -> SharedVerdict:
    """What `fctl-eval --contexts exact,shared` tells."""
    runs = plan_runs([bundle], backends=(_ENGINE,), encodings=("exact", "shared"), batch=_BATCH)
    with tempfile.TemporaryDirectory(prefix="fctl-shared-") as folder:
        exact, shared = evaluate(dataset, runs, Path(folder), progress=progress).results
    scores = [100 * result.confusion.miou(dataset.description.counted) for result in (exact, shared)]
    return SharedVerdict(
        agreement=shared.agreement, lost=scores[0] - scores[1], pixels=sum(image.compared for image in shared.images),
        source=f"{dataset.description.name}, {len(dataset.samples)} images", engine=_ENGINE,
    )  # fmt: skip


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
