"""``fctl-info``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command
from .tables import print_table

if TYPE_CHECKING:
    from ..bundle.manifest import Context, Manifest
    from ..bundle.verdicts import Bf16Verdict, SharedVerdict
    from ..engines.tensorrt.plans import StoredPlan


def info(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or 'default' for the one shipped with fctl.")
    ],
) -> None:
    """Show what a bundle holds, after verifying its files."""
    from ..bundle.store import read_bundle
    from ..engines.tensorrt.plans import plans_in

    found = read_bundle(bundle)
    plans = plans_in(found.folder)
    print_table(f"{found.manifest.name} ({found.folder})", _summary(found.manifest), ("field", "value"))
    _print_graphs(found.manifest)
    print_engines(plans)
    print_parity(found.manifest)


def print_engines(plans: Sequence[StoredPlan]) -> None:
    """One row per engine: what for, how large, and what its layers became."""
    rows = []
    for plan in plans:
        record = plan.record
        machine, batches = record.machine, " and ".join(map(str, record.profiles))
        target = machine.gpu or f"compute capability {machine.compute_capability / 10:.1f}"
        rows.append((
            f"{record.role}, {record.precision}", batches, f"{target}, {record.options.flavour} {machine.version}",
            f"{plan.path.stat().st_size / 1e6:.1f} MB, {record.seconds:.1f} s",
            record.layers.summary if record.layers else "",
        ))  # fmt: skip
    if rows:
        print_table("Engines", rows, ("graph", "batch", "runs on", "built", "products by data type"))


def print_parity(manifest: Manifest) -> None:
    """The parity table of a bundle."""
    rows = []
    for parity in manifest.parity:
        rows += [
            ("graphs", parity.precision),
            ("compared with", parity.reference),
            ("patches", f"{parity.patches} of {parity.source}; they show {', '.join(parity.classes)}"),
            ("max |difference| / max |logit|", f"{parity.max_error:.2e}"),
            ("same class", f"{parity.agreement:.4%} of pixels"),
        ]
        if parity.original_agreement is not None:
            rows.append(("same class as before rounding", f"{parity.original_agreement:.4%} of pixels"))
        if parity.precision != "fp32":  # which is compared with the network itself, and is the same
            rows += [
                (f"class {one.name}: IoU with fp32", f"{one.iou:.2%}; {one.share:.2%} of pixels in fp32")
                for one in parity.class_iou
            ]
        rows += [
            (f"change when {effect.name} is another patch's", f"{effect.change:.2e}") for effect in parity.contexts
        ]
    if manifest.sharing:
        rows.append(("contexts encoded once a raster", _summary_of(manifest.sharing)))
    if manifest.bf16:
        rows.append(("computed in bf16", _summary_of(manifest.bf16)))
    rows += [
        (
            f"{verdict.engine} {verdict.version}, {verdict.precision}",
            "computes what the network computes" if verdict.passed else f"never taken by auto: {verdict.reason}",
        )
        for verdict in manifest.engines
    ]
    print_table("Parity", rows, ("measure", "value"))


def _summary(manifest: Manifest) -> list[tuple[str, ...]]:
    """What a manifest holds beside its graphs and parity."""
    spec, plan = manifest.input, manifest.plan
    scaling = (
        "unknown"
        if spec.scaling is None
        else f"(raw - {list(spec.scaling.mean)}) / {list(spec.scaling.std)}, in the graphs"
    )
    distance = spec.ground_sample_distance
    rows: list[tuple[str, ...]] = [
        ("schema", manifest.schema),
        ("classes", ", ".join(f"{i} {info.name} {info.colour}" for i, info in enumerate(manifest.classes))),
        ("input", f"{spec.bands} bands of {spec.dtype}; scaling {scaling}"),
        ("ground sample distance", "unknown" if distance is None else f"{distance} m"),
        (
            "tile",
            f"{manifest.tile} pixels, plan {plan.kind}, overlap {plan.overlap}, merged with {manifest.merge} weights",
        ),
    ]
    if manifest.temperature is not None:
        rows.append(("temperature", f"{manifest.temperature:g}, of probabilities"))
    for context in manifest.contexts:
        rows.append((f"context {context.name}", _context_summary(context, manifest.tile)))
    if manifest.network:
        rows.append(
            (
                "network",
                ", ".join(
                    f"{key} {value}" for key, value in manifest.network.items() if not isinstance(value, (dict, list))
                ),
            )
        )
    origin = manifest.provenance
    rows += [
        ("made", f"{origin.created} with {', '.join(f'{name} {version}' for name, version in origin.tools.items())}"),
        ("checkpoint", origin.checkpoint_sha256),
        ("licence", origin.licence or "unknown"),
    ]
    return rows + [(f"extensions.{key}", str(value)) for key, value in manifest.extensions.items()]


def _context_summary(context: Context, tile: int) -> str:
    """What a context shows, at what size, and which graph encodes it."""
    encoder = context.encoder or "encoded by the segmenter itself"
    if context.sharing:
        encoder += f", or once a raster by {context.sharing.encoder} in windows of {context.sharing.size} pixels"
    if context.maps:
        encoder += f" as {len(context.maps)} maps"
    if gathering := context.gathering:
        encoder += (
            f", in a second pass with {len(gathering.maps)} maps that {gathering.encoder} makes of all patches in it "
            f"and of {gathering.context}"
        )
    return f"{context.window.describe(tile)}, at {context.size} pixels ({context.resampling}); {encoder}"


def _summary_of(verdict: SharedVerdict | Bf16Verdict) -> str:
    """What another way to run a bundle changes, and whether "auto" takes it."""
    return f"{verdict.in_words}; {'taken' if verdict.passed else 'never taken'} by auto"


def _print_graphs(manifest: Manifest) -> None:
    """One row per graph, then one for each of its tensors."""
    rows = []
    for graph in manifest.graphs:
        rows.append((f"{graph.role}, {graph.precision}", graph.file, f"sha256 {graph.sha256[:16]}..."))
        for kind, tensors in (("in", graph.inputs), ("out", graph.outputs)):
            rows += [("", f"{kind}: {t.name}", f"{t.dtype} {' x '.join(map(str, t.shape))}") for t in tensors]
    print_table("Graphs", rows, ("graph", "file and tensors", ""))


info_app = command(info, examples=("default", "city.fctl"))
