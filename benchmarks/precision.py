"""What each exception from fp16 is worth: python -m benchmarks.precision BUNDLE... [--patches IMAGES] [--count 8].

Every bundle is converted with all exceptions, without each that it has, and without any, and compared with its fp32
graphs, rounded at every node (`fctl.export.precision.rounding`).
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from fctl.calib.sample import sample_patches
from fctl.calib.watch import peaks
from fctl.export.onnx_graph import save_model
from fctl.export.patches import parity_images
from fctl.export.precision.half import to_half
from fctl.export.precision.half_exceptions import EXCEPTIONS
from fctl.export.precision.rounding import overflows, rounding_bundle
from fctl.export.verify import Samples, compare, fp32_reference
from fctl.runtime.bundle.store import Bundle, read_bundle


def main() -> None:
    """Print one table."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--patches", type=Path, action="append", default=[])
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()
    print("| bundle | exceptions | nodes in fp32 | max error | same class | overflows in |\n|---|---|---|---|---|---|")
    for name in arguments.bundles:
        for cells in rows(read_bundle(name), arguments.patches, arguments.count):
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def rows(bundle: Bundle, places: Sequence[Path], count: int) -> Iterator[list[str]]:
    """Convert a bundle with several choices of exceptions and compare each with fp32.

    Args:
        bundle: A bundle of fp32 graphs.
        places: Images or folders of them; none for those that come with fctl.
        count: How many patches to compare on.

    Yields:
        The cells of a row for each choice of exceptions.
    """
    spec = bundle.manifest.input
    images, source = parity_images(spec.bands, places, spec.dtype)
    samples = Samples(batches=sample_patches(bundle.manifest, images, count, seed=0), source=source)
    ranges = peaks(bundle, samples.batches)
    reference = fp32_reference(bundle)
    expected = {id(batch): reference.scores(batch) for batch in samples.batches}
    reference = replace(reference, scores=lambda batch: expected[id(batch)])
    left_out: dict[str, tuple[str, ...]] = {"all": ()}
    left_out |= {f"without {name}": (name,) for name in EXCEPTIONS} | {"none": tuple(EXCEPTIONS)}
    needed: frozenset[str] = frozenset()
    for label, names in left_out.items():
        if len(names) == 1 and not needed.issuperset(names):
            continue  # no node of this bundle is such an exception
        with tempfile.TemporaryDirectory() as folder:
            made = _halved(bundle, [name for name in EXCEPTIONS if name not in names], ranges, Path(folder))
            needed = made.kept if label == "all" else needed
            simulated = rounding_bundle(made.bundle, "fp16", Path(folder))
            parity = compare(simulated, reference, samples, "fp16")
            overflowing = overflows(simulated, samples.batches)[:2] if math.isnan(parity.max_error) else ()
        figures = [f"{parity.max_error:.1e}", f"{parity.agreement:.3%}"]
        yield [label, str(made.nodes), *figures, ", ".join(overflowing) or "-"]


@dataclass(frozen=True)
class _Halved:
    """A bundle of fp16 graphs alone, the exceptions that they needed, and how many nodes stayed in fp32."""

    bundle: Bundle
    kept: frozenset[str]
    nodes: int


def _halved(
    bundle: Bundle, exceptions: Sequence[str], ranges: Mapping[str, Mapping[str, float]], folder: Path
) -> _Halved:
    """Convert a bundle's fp32 graphs with some exceptions, into a folder."""
    graphs, kept, nodes = [], frozenset[str](), 0
    for graph in bundle.manifest.graphs:
        if graph.precision == "fp32":
            half = to_half(onnx.load(bundle.folder / graph.file), graph.role, ranges[graph.role], exceptions)
            save_model(half.model, folder / graph.file)
            kept |= half.kept.keys()
            nodes += len({node for names in half.kept.values() for node in names})
            graphs.append(replace(graph, precision="fp16"))
    return _Halved(Bundle(folder, replace(bundle.manifest, graphs=tuple(graphs))), kept, nodes)


if __name__ == "__main__":
    main()
