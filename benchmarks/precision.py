"""What each exception from fp16 is worth: python benchmarks/precision.py BUNDLE... [--patches IMAGES] [--count 8].

Every bundle is converted with all exceptions, without each that it has, and without any, and compared with its fp32
graphs, rounded at every node (`export/rounding.py`).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from fctl.calib.sample import sample_patches
from fctl.calib.watch import peaks
from fctl.export.onnx_graph import save_model
from fctl.export.patches import parity_images
from fctl.export.precision.half import EXCEPTIONS, to_half
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
    """One bundle's rows."""
    spec = bundle.manifest.input
    images, source = parity_images(spec.bands, places, spec.dtype)
    samples = Samples(batches=sample_patches(bundle.manifest, images, count, seed=0), source=source)
    ranges = peaks(bundle, samples.batches)
    reference = fp32_reference(bundle)
    expected = {id(batch): reference.scores(batch) for batch in samples.batches}
    reference = replace(reference, scores=lambda batch: expected[id(batch)])
    used: set[str] = set()
    for label, left_out in (("all", ()), *((f"without {name}", (name,)) for name in EXCEPTIONS), ("none", EXCEPTIONS)):
        if left_out and label != "none" and left_out[0] not in used:
            continue
        chosen = [name for name in EXCEPTIONS if name not in left_out]
        with tempfile.TemporaryDirectory() as folder:
            nodes, halves = 0, []
            for graph in bundle.manifest.graphs:
                if graph.precision != "fp32":
                    continue
                half = to_half(onnx.load(bundle.folder / graph.file), graph.role, ranges[graph.role], chosen)
                save_model(half.model, Path(folder) / graph.file)
                nodes += len({node for names in half.kept.values() for node in names})
                used |= set(half.kept) if label == "all" else set()
                halves.append(replace(graph, precision="fp16"))
            made = Bundle(Path(folder), replace(bundle.manifest, graphs=tuple(halves)))
            simulated = rounding_bundle(made, "fp16", Path(folder))
            parity = compare(simulated, reference, samples, "fp16")
            blamed = (
                ", ".join(overflows(simulated, samples.batches)[:2]) if parity.max_error != parity.max_error else ""
            )
        yield [label, str(nodes), f"{parity.max_error:.1e}", f"{parity.agreement:.3%}", blamed or "-"]


if __name__ == "__main__":
    main()
