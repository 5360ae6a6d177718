"""A bundle with graphs of another precision beside its fp32 ones. Needs no torch."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from fctl.calib.classes import MIN_CLASS_IOU, shortfall, weakest
from fctl.calib.sample import sample_patches
from fctl.calib.watch import Peaks, peaks
from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA, GraphSpec, Manifest, Precision
from fctl.runtime.bundle.parity import Parity
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest
from fctl.runtime.errors import BundleError, InputError, ParityError

from ..copies import copy_files
from ..onnx_graph import save_model
from ..patches import PARITY_PATCHES, parity_images
from ..verify import Samples, fp32_reference, verify
from .half import to_half
from .half_exceptions import EXCEPTIONS
from .rounding import overflows, rounding_bundle

log = logging.getLogger(__name__)

_NAMED = 3  # nodes to blame in an error


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What to add to a bundle.

    Attributes:
        precision: The precision of the graphs to make.
        patches: Images or folders of images, for the ranges of values and for the parity gate; empty for those shipped
            with fctl.
        coarse: For a bundle that refines masks, the folder of those of the images; None for stand-ins, which are not
            like those that it will refine.
        exceptions: Names in `half_exceptions.EXCEPTIONS` of what stays in fp32. Fewer than all serve to measure what
            one of them is worth.
    """

    precision: Literal["fp16"]
    patches: tuple[Path, ...] = ()
    coarse: Path | None = None
    exceptions: tuple[str, ...] = tuple(EXCEPTIONS)


def add_precision(bundle: Bundle, out: Path, options: PrecisionOptions) -> Manifest:
    """Copy a bundle, with graphs of another precision that are made from its fp32 ones and verified against them.

    The parity gate runs a simulation of the fp16 graphs, which rounds at every node (`rounding`).

    Args:
        bundle: A bundle with fp32 graphs.
        out: The folder of the copy.
        options: What to add.

    Returns:
        The manifest of the copy.

    Raises:
        BundleError: The bundle holds such graphs already, or cannot have them.
        InputError: No images fit the network; see `parity_images`.
        RasterError: An image cannot be read, or does not fit the bundle.
        OutputError: `out` exists already, or cannot be written.
        ParityError: The graphs differ too much from the fp32 ones. After any error nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    check_fp32(bundle, options.precision)
    check_masks(bundle, options.coarse)
    spec = bundle.manifest.image
    images, source = parity_images(spec.bands, options.patches, spec.dtype)
    batches = sample_patches(bundle.manifest, images, PARITY_PATCHES, seed=0, masks=options.coarse)
    samples = Samples(batches=batches, source=source)
    ranges = peaks(bundle, samples.batches)
    with atomic_write(out) as folder:
        copy_files(bundle.folder, folder)
        graphs = tuple(
            _write_half(bundle, graph, folder, ranges[graph.role], options.exceptions)
            for graph in bundle.manifest.graphs
            if graph.precision == "fp32"
        )
        both = (*bundle.manifest.graphs, *graphs)
        draft = replace(bundle.manifest, schema=SCHEMA, name=out.stem, graphs=both)
        write_manifest(folder, draft)
        parity = _verify(Bundle(folder, draft), samples, options.precision)
        _warn_of_classes(parity)
        manifest = replace(draft, parity=(*draft.parity, parity))
        write_manifest(folder, manifest)
    return manifest


def check_fp32(bundle: Bundle, precision: Precision) -> None:
    """Check that graphs of a precision can be made of a bundle's fp32 ones, and are not there yet.

    Args:
        bundle: The bundle.
        precision: The precision to make.

    Raises:
        BundleError: The bundle holds graphs of the precision already, or none in fp32.
    """
    found = bundle.manifest.precisions
    if precision in found:
        raise BundleError(f"{bundle.folder} holds {precision} graphs already: run it with `precision` {precision}")
    if "fp32" not in found:
        raise BundleError(
            f"{precision} graphs are made from fp32 ones, found {' and '.join(found)}",
            subject=bundle.folder,
            remedy="export it again",
        )


def check_masks(bundle: Bundle, coarse: Path | None) -> None:
    """Check that coarse masks come to a bundle that refines some; warn of one that has none.

    Args:
        bundle: The bundle.
        coarse: The folder of the masks, or None.

    Raises:
        InputError: The bundle refines none.
    """
    name, refines = bundle.manifest.name, bundle.manifest.refines
    if coarse is not None and not refines:
        raise InputError(
            f"bundle {name} makes masks itself, and refines none", subject="`coarse`", remedy="leave it out"
        )
    if refines and coarse is None:
        log.warning(
            "bundle %s refines masks, and masks by brightness stand in for them: give a folder of those that it will "
            "refine with `coarse`",
            name,
        )


def _write_half(bundle: Bundle, graph: GraphSpec, folder: Path, ranges: Peaks, exceptions: Sequence[str]) -> GraphSpec:
    """Write the fp16 copy of one graph."""
    source = bundle.folder / graph.file
    log.info("converting %s to fp16", graph.role)
    half = to_half(onnx.load(source), str(source), ranges, exceptions)
    for name, nodes in half.kept.items():
        log.info("%s: in fp32 for %s: %d of %d nodes", graph.role, name, len(nodes), len(half.model.graph.node))
    if lost := half.kept.get("constants"):
        shown = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        log.warning("%s: fp16 does not hold the constants of %s, which stay in fp32", graph.role, shown)
    path = folder / f"{Path(graph.file).stem}.fp16.onnx"
    ins, outs = save_model(half.model, path)
    return GraphSpec(
        role=graph.role, precision="fp16", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=ins, outputs=outs,
    )  # fmt: skip


def _warn_of_classes(parity: Parity) -> None:
    """Warn of a class that keeps less than int8 would have to keep: the gate looks at all pixels together."""
    one = weakest(parity.class_iou)
    if one and one.iou < MIN_CLASS_IOU:
        log.warning("%s: %s", parity.precision, shortfall(one, MIN_CLASS_IOU))


def _verify(bundle: Bundle, samples: Samples, precision: Precision) -> Parity:
    """The parity gate, on rounding graphs; an error for infinity or NaN names the nodes that make them first."""
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
