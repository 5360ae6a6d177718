"""Agreement of int8 with fp32, by method and number of patches.

python -m benchmarks.int8 BUNDLE --calib IMAGES --check IMAGES

All layers that may be int8 are. Ranges come from 8, 32 and 128 patches of the images of --calib, drawn by three seeds;
agreement is that of patches of other images, --check.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from fctl.calib.choose import Chosen, choose_patches, cut_patches
from fctl.calib.correct import corrections
from fctl.calib.ranges import METHODS, amax
from fctl.calib.sample import find_images
from fctl.calib.trials import Fp32Graphs, Numbers, Trials
from fctl.calib.watch import histograms, peaks
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.segment.opening import open_network

COUNTS, SEEDS, CHECKS = (8, 32, 128), (1, 2, 3), 32
CORRECTED = "percentile, bias correction"


def main() -> None:
    """Print one Markdown table: mean and range over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--calib", type=Path, nargs="+", required=True)
    parser.add_argument("--check", type=Path, nargs="+", required=True, help="images to compare on: others")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    graphs, network = Fp32Graphs.of(bundle), open_network(bundle, "auto", "fp32", 4, False)
    checks = choose_patches(network, find_images(arguments.check), CHECKS, seed=0)
    trials = Trials(graphs, cut_patches(bundle.manifest, checks))
    print(f"| patches | {' | '.join((*METHODS, CORRECTED))} |\n|{'---|' * (2 + len(METHODS))}")
    for count in arguments.counts:
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            chosen = choose_patches(network, find_images(arguments.calib), count, seed)
            for name, value in agreements(graphs, trials, chosen).items():
                found.setdefault(name, []).append(100 * value)
        cells = (f"{statistics.mean(values):.2f} ({min(values):.2f} - {max(values):.2f})" for values in found.values())
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def agreements(graphs: Fp32Graphs, trials: Trials, chosen: Sequence[Chosen]) -> Mapping[str, float]:
    """Compare int8 with fp32 for ranges of every method.

    Args:
        graphs: The bundle's fp32 graphs.
        trials: The patches to compare on.
        chosen: The patches that ranges come from.

    Returns:
        By method, the share of pixels that keep their class.
    """
    bundle = graphs.bundle
    tensors = {role: {layer.input for layer in layers} for role, layers in graphs.layers.items()}
    largest = peaks(bundle, cut_patches(bundle.manifest, chosen), inputs=True)
    counted = histograms(bundle, cut_patches(bundle.manifest, chosen), largest, tensors)
    numbers: dict[str, Numbers] = {
        method: Numbers(
            amax={role: {n: amax(h, method, name=n) for n, h in of.items()} for role, of in counted.items()}, biases={}
        )
        for method in METHODS
    }
    ranges = numbers["percentile"].amax
    biases = corrections(graphs, ranges, cut_patches(bundle.manifest, chosen))
    numbers_of = {**numbers, CORRECTED: Numbers(amax=ranges, biases=biases)}
    return {name: trials.agreement(graphs.names, each) for name, each in numbers_of.items()}


if __name__ == "__main__":
    main()
