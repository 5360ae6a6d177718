"""Presets through TensorRT-RTX's builder at full width, without a GPU: whether they build, and in which data types.

python -m benchmarks.builds [--only default,fctl-vgg16,city.fctl] [--width 0.125] [--capability 86]

Presets are exported with random weights; bundles are taken as they are. fp16 graphs are made as `fctl-export
--precision fp16` makes them, int8 ones with Q/DQ on all layers that may have it: that shows what the builder makes of
int8, and says nothing of accuracy. Layers are counted by the data type that goes into their products; "fused" are
attentions that became one kernel.
"""

from __future__ import annotations

import argparse
import gc
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fctl.export.precision.add import PrecisionOptions, add_precision
from fctl.model.presets import PRESETS
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.tensorrt.builder import build_plan, machine_for
from fctl.runtime.engines.tensorrt.plans import BuildOptions
from fctl.runtime.errors import FctlError, ParityError
from tests.export.builds import halved, quantised

from .parts.random_weights import make_preset, segmenting

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
HEADER = (
    "preset",
    "graphs",
    "precision",
    "builds",
    "seconds",
    "plans, MB",
    "ONNX, MB",
    "layers by data type",
    "agreement",
)


def main() -> None:
    """Print rows of a Markdown table as they are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="presets and bundles, comma-separated; default: the shipped bundle, all presets")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies every number of channels")
    parser.add_argument("--capability", type=int, default=86, help="of the GPUs that plans are for")
    parser.add_argument("--no-gate", action="store_true", help="leave out how fp16 agrees: minutes for a VGG16")
    arguments = parser.parse_args()
    options = BuildOptions(flavour="tensorrt-rtx", batches=(1,), compute_capability=arguments.capability)
    print(
        f"TensorRT-RTX {machine_for(options).version}, compute capability {arguments.capability / 10:.1f}, batch 1.\n"
    )
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    logging.disable(logging.WARNING)  # the quantiser's advice
    for name in arguments.only.split(",") if arguments.only else ("default", *segmenting()):
        for graph in _graphs(name):
            with tempfile.TemporaryDirectory() as folder:
                if name in PRESETS:
                    made = make_preset(name, Path(folder), classes=6, width=arguments.width, graph=graph)
                bundle = made.bundle if name in PRESETS else read_bundle(name)
                for cells in rows(bundle, Path(folder), options, gate=not arguments.no_gate):
                    print(f"| {name} | {graph} | {' | '.join(cells)} |", flush=True)
            gc.collect()


def _graphs(name: str) -> tuple[Literal["staged", "fused"], ...]:
    """The kinds of graphs to build: both of presets that have contexts, unless these take two passes over a scene."""
    contexts = PRESETS[name].network.contexts if name in PRESETS else ()
    return ("staged", "fused") if contexts and not any(context.gathers for context in contexts) else ("staged",)


def rows(bundle: Bundle, folder: Path, options: BuildOptions, gate: bool) -> Iterator[list[str]]:
    """Build a bundle in each precision.

    Args:
        bundle: A bundle of fp32 graphs.
        folder: Where graphs of other precisions are written.
        options: What to build for.
        gate: Whether fp16 graphs go through the parity gate.

    Yields:
        The cells of a row, from the precision on; what fails names the reason.
    """
    for precision in PRECISIONS:
        agreement = "reference" if precision == "fp32" else "-"
        try:
            found = bundle
            if precision == "fp16":
                found, agreement = half(bundle, folder) if gate else (halved(bundle, folder), "-")
            elif precision == "int8":
                found = quantised(bundle, folder)
            yield [precision, *built(found, precision, options), agreement]
        except FctlError as error:
            yield [precision, f"no: {error}", *[""] * 5]


def half(bundle: Bundle, folder: Path) -> tuple[Bundle, str]:
    """Make fp16 graphs; those that the parity gate refuses, as random weights may be, are made without it.

    Args:
        bundle: A bundle of fp32 graphs.
        folder: Where the fp16 graphs are written.

    Returns:
        A bundle with fp16 graphs, and how they agree with fp32.
    """
    try:
        parity = add_precision(bundle, folder / "half.fctl", PrecisionOptions(precision="fp16")).parity[-1]
        return read_bundle(folder / "half.fctl"), f"{parity.agreement:.3%}, max {parity.max_error:.0e}"
    except ParityError as error:
        figures = re.findall(r"found ([\d.e+-]+%?)", str(error))
        return halved(bundle, folder), f"refused: {' and '.join(figures)}"


def built(bundle: Bundle, precision: Precision, options: BuildOptions) -> list[str]:
    """Build all graphs of a precision.

    Args:
        bundle: The bundle.
        precision: The precision.
        options: What to build for.

    Returns:
        The cells of a row, from "builds" to "layers by data type".

    Raises:
        EngineError: A graph does not parse or does not build.
    """
    machine, seconds, plans, graphs = machine_for(options), 0.0, 0, 0
    layers: dict[str, int] = {}
    for graph in bundle.manifest.graphs:
        if graph.precision == precision:
            path = bundle.folder / graph.file
            plan, record = build_plan(path, graph, options, machine)
            seconds, plans, graphs = seconds + record.seconds, plans + plan.nbytes, graphs + path.stat().st_size
            assert record.layers is not None
            counts = {kind: len(nodes) for kind, nodes in record.layers.products.items()}
            for kind, count in (counts | {"fused": len(record.layers.attention)}).items():
                layers[kind] = layers.get(kind, 0) + count
    counted = ", ".join(f"{count} {kind}" for kind, count in layers.items() if count)
    return ["yes", f"{seconds:.1f}", f"{plans / 1e6:.0f}", f"{graphs / 1e6:.0f}", counted]


if __name__ == "__main__":
    main()
