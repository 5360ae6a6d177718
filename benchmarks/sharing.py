"""What contexts cost, encoded once a patch and once a raster: python -m benchmarks.sharing [PRESET ...] [--side 4000].

Each preset is run three ways on one raster, with random weights: with every context encoded for each patch ("exact"),
with contexts encoded once a raster ("shared"), and as the same network without contexts. `default` is the bundle that
comes with fctl, beside a network without contexts of the same preset. Rounds alternate between the ways; medians are
printed, with ratios to the network without contexts, and the share of pixels that keep their class.

With `--work`, nothing is run: the multiplications of shared contexts are counted, to tell why the ratio is what it is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.calib.sample import shipped_images
from fctl.model.presets import PRESETS, without_contexts
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.opening import load_network

from .parts.networks import mask_of, mosaic
from .parts.random_weights import make_network
from .parts.shared_work import shared_work
from .parts.timing import Timed

_PRESETS = ("default", "fctl-lite0")


def main() -> None:
    """Time every preset and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=_PRESETS, metavar="PRESET")
    parser.add_argument("--side", type=int, default=4000, help="of the raster in pixels")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=float, default=1.0, help="of the networks with random weights")
    parser.add_argument("--fitted", action="store_true", help="windows of contexts are made for rasters of that side")
    parser.add_argument("--work", action="store_true", help="count multiplications instead of seconds")
    arguments = parser.parse_args()
    if arguments.work:
        _count(arguments)
        return
    print(f"| network | way | seconds | ratio | processor seconds | ratio | same class as exact |\n|{'---|' * 7}")
    for name in arguments.presets:
        with tempfile.TemporaryDirectory(prefix="fctl-") as folder:
            _measure(name, Path(folder), arguments)


def _count(arguments: argparse.Namespace) -> None:
    """Print the work of every preset at full width."""
    titles = (
        "network", "pixels", "patches", "a patch without contexts", "what contexts add to it", "windows",
        "all windows", "of the raster's pixels once", "ratio", "ratio with these alone",
    )  # fmt: skip
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name in arguments.presets:
        preset = PRESETS["fctl-lite0" if name == "default" else name]
        work = shared_work(preset, arguments.side, fitted=arguments.fitted)
        cells = (
            name, f"{arguments.side}²", str(work.patches), f"{work.alone:.1f}", f"{work.fusion:.1f}",
            str(work.windows), f"{work.encoding:.0f}", f"{work.needed:.0f}", f"{work.ratio(work.encoding):.2f}",
            f"{work.ratio(work.needed):.2f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def _measure(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Time one preset, and print its rows."""
    preset = "fctl-lite0" if name == "default" else name
    made = read_bundle(name) if name == "default" else _made(preset, folder, arguments)
    found = PRESETS[preset]
    fewer = without_contexts(replace(found.network, classes=5))
    alone = make_network("alone", fewer, folder, serving=found.serving, width=arguments.width).bundle
    image = mosaic(made.manifest, shipped_images(), arguments.side, arguments.side)
    with ExitStack() as stack:

        def way(bundle: Bundle, once: bool) -> Timed:
            engine = choose_engine(arguments.backend, "fp32", bundle, batch=arguments.batch)
            network = stack.enter_context(closing(load_network(bundle, engine, arguments.batch, once=once)))
            return Timed(run=lambda: mask_of(network, image))

        ways = {"no contexts": way(alone, False), "exact": way(made, False), "shared": way(made, True)}
        masks: dict[str, NDArray[np.uint8]] = {}
        for _ in range(arguments.rounds):
            masks = {label: one.once() for label, one in ways.items()}
    _print(name, ways, float((masks["exact"] == masks["shared"]).mean()))


def _made(preset: str, folder: Path, arguments: argparse.Namespace) -> Bundle:
    """A bundle of a preset with random weights."""
    found = PRESETS[preset]
    serving = replace(found.serving, raster=arguments.side if arguments.fitted else None)
    network = replace(found.network, classes=5)
    return make_network(preset, network, folder, serving=serving, width=arguments.width).bundle


def _print(name: str, ways: dict[str, Timed], agreement: float) -> None:
    clock = {label: statistics.median(way.clock) for label, way in ways.items()}
    processor = {label: statistics.median(way.processor) for label, way in ways.items()}
    for label in ways:
        same = f"{agreement:.2%}" if label == "shared" else ""
        print(
            f"| {name} | {label} | {clock[label]:.1f} | {clock[label] / clock['no contexts']:.2f} "
            f"| {processor[label]:.1f} | {processor[label] / processor['no contexts']:.2f} | {same} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
