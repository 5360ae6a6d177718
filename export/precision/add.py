"""A bundle with graphs of another precision beside its fp32 ones. Needs no torch."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from fctl.calib.sample import sample_patches
from fctl.calib.watch import Peaks, peaks
from fctl.runtime.bundle.manifest import GraphSpec, Manifest, Parity, Precision
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import BundleError, ParityError
from fctl.runtime.raster.atomic import atomic_write, refuse_existing

from ..onnx_graph import save_model
from ..patches import PARITY_PATCHES, parity_images
from ..verify import Samples, fp32_reference, verify
from .half import EXCEPTIONS, to_half
from .rounding import overflows, rounding_bundle

log = logging.getLogger(__name__)

_NAMED = 3  # nodes to blame in an error


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What to add to a bundle.

    patches: images or folders, for the ranges of values and for the parity gate; empty: those shipped with fctl.
    exceptions: what may stay in fp32, by its name in `half.EXCEPTIONS`; fewer than all, to measure what one is worth.
    """

    precision: Literal["fp16"]
    patches: tuple[Path, ...] = ()
    exceptions: tuple[str, ...] = tuple(EXCEPTIONS)


def add_precision(bundle: Bundle, out: Path, options: PrecisionOptions) -> Manifest:
    """Copy a bundle to the folder `out`, with graphs of another precision made from its fp32 ones and verified.

    The reference is the fp32 graphs; fp16 graphs are rounded at every node (`rounding`). Raises BundleError for a
    bundle that holds such graphs already or cannot have them, InputError, RasterError, OutputError or ParityError; then
    nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another --out, or remove it")
    check_fp32(bundle, options.precision)
    spec = bundle.manifest.input
    images, source = parity_images(spec.bands, options.patches, spec.dtype)
    samples = Samples(batches=sample_patches(bundle.manifest, images, PARITY_PATCHES, seed=0), source=source)
    ranges = peaks(bundle, samples.batches)
    with atomic_write(out) as folder:
        copy_files(bundle.folder, folder)
        graphs = tuple(
            _write_half(bundle, graph, folder, ranges[graph.role], options.exceptions)
            for graph in bundle.manifest.graphs
            if graph.precision == "fp32"
        )
        draft = replace(bundle.manifest, name=out.stem, graphs=(*bundle.manifest.graphs, *graphs))
        write_manifest(folder, draft)
        parity = _verify(Bundle(folder, draft), samples, options.precision)
        manifest = replace(draft, parity=(*draft.parity, parity))
        write_manifest(folder, manifest)
    return manifest


def check_fp32(bundle: Bundle, precision: Precision) -> None:
    """Raise BundleError unless a bundle holds fp32 graphs, and none of the precision that is to be made of them."""
    found = bundle.manifest.precisions
    if precision in found:
        raise BundleError(f"{bundle.folder} holds {precision} graphs already: run it with --precision {precision}")
    if "fp32" not in found:
        raise BundleError(
            f"{bundle.folder}: {precision} graphs are made from fp32 ones, found {' and '.join(found)}; export it again"
        )


def copy_files(source: Path, target: Path) -> None:
    """Copy all files of a bundle, but not their permissions: an installed one may be read-only."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)


def _write_half(bundle: Bundle, graph: GraphSpec, folder: Path, ranges: Peaks, exceptions: Sequence[str]) -> GraphSpec:
    """Write the fp16 copy of one graph."""
    source = bundle.folder / graph.file
    log.info("converting %s to fp16", graph.role)
    half = to_half(onnx.load(source), str(source), ranges, exceptions)
    for name, nodes in half.kept.items():
        log.info("%s: in fp32 for %s: %d of %d nodes", graph.role, name, len(nodes), len(half.model.graph.node))
    if lost := half.kept.get("constants"):
        shown = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        log.warning("warning: %s: fp16 does not hold the constants of %s, which stay in fp32", graph.role, shown)
    path = folder / f"{Path(graph.file).stem}.fp16.onnx"
    ins, outs = save_model(half.model, path)
    return GraphSpec(role=graph.role, precision="fp16", file=path.name, sha256=sha256(path), inputs=ins, outputs=outs)


def _verify(bundle: Bundle, samples: Samples, precision: Precision) -> Parity:
    """The gate, on rounding graphs; where it fails for infinity or NaN, the error says which nodes begin with them."""
    with tempfile.TemporaryDirectory() as folder:
        simulated = rounding_bundle(bundle, precision, Path(folder))
        try:
            return verify(simulated, fp32_reference(bundle), samples, precision)
        except ParityError as error:
            nodes = overflows(simulated, samples.batches)
            if not nodes:
                raise
            more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
            raise ParityError(f"{error}; beyond fp16: {', '.join(nodes[:_NAMED])}{more}") from error
