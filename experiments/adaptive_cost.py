"""What contexts cost while they are shared, stage by stage, and what tiles that do without them could save of it.

python -m experiments.adaptive_cost [default] [fctl-vgg16 --width 0.5] --side 3000 --out costs.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.parts.networks import mosaic
from benchmarks.parts.random_weights import make_network, make_preset
from benchmarks.parts.shared_work import shared_work
from fctl.calib.sample import shipped_images
from fctl.model.presets import PRESETS, without_contexts
from fctl.runtime.bench.machine import load
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.network import Network
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import Pipeline
from fctl.runtime.stopwatch import Stage, Stopwatch, Times
from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.sources import ArraySource

NONE, FIRST, SHARED, EXACT = "no context", "the first context alone", "shared", "exact"
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one run took.

    Attributes:
        clock: Seconds by the clock.
        processor: Seconds of all cores.
        encode: Those of them in which the engine encoded contexts.
        segment: Those of them in which the engine segmented patches.
    """

    clock: float
    processor: float
    encode: float
    segment: float


def main() -> None:
    """Time some networks, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default=DEFAULT, help="the bundle `default`, or a preset")
    parser.add_argument("--side", type=int, default=3000, help="of the raster in pixels")
    parser.add_argument("--width", type=float, default=1.0, help="of a preset's network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="also with contexts encoded once a patch")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fctl-") as folder, ExitStack() as stack:
        ways = _ways(arguments, Path(folder))
        networks = {name: stack.enter_context(closing(_load(bundle, once))) for name, (bundle, once) in ways.items()}
        image = mosaic(networks[SHARED].manifest, shipped_images(), arguments.side, arguments.side)
        found: dict[str, list[Round]] = {name: [] for name in networks}
        for number in range(arguments.rounds + 1):
            for name, network in networks.items():
                one = _timed(network, image)
                if number:  # everything has run once before
                    found[name].append(one)
                print(name, one, f"load {load()}", flush=True)
    result = {
        "network": arguments.preset, "width": arguments.width, "side": arguments.side, "rounds": arguments.rounds,
        "work": asdict(shared_work(PRESETS[_preset(arguments.preset)], arguments.side, fitted=False)),
        "ways": {name: [asdict(one) for one in rounds] for name, rounds in found.items()},
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def ratio(ways: Mapping[str, list[dict[str, float]]], name: str, over: str, key: str) -> float:
    """How many times as much one way takes as another: the median of the ratios within each round."""
    pairs = zip(ways[name], ways[over], strict=True)
    return statistics.median(one[key] / other[key] for one, other in pairs)


def _preset(name: str) -> str:
    return "fctl-lite0" if name == DEFAULT else name


def _ways(arguments: argparse.Namespace, folder: Path) -> dict[str, tuple[Bundle, bool]]:
    """The networks that are compared, and whether they encode contexts once a raster."""
    chosen = PRESETS[_preset(arguments.preset)]
    config = replace(chosen.network, classes=5)
    fewer = {
        NONE: without_contexts(config),
        FIRST: replace(config, contexts=config.contexts[:1]),
    }
    full = (
        read_bundle(DEFAULT)
        if arguments.preset == DEFAULT
        else make_preset(arguments.preset, folder, classes=5, width=arguments.width).bundle
    )
    made = {
        name: make_network(name.split()[0], some, folder, serving=chosen.serving, width=arguments.width).bundle
        for name, some in fewer.items()
    }
    ways = {NONE: (made[NONE], False), FIRST: (made[FIRST], True), SHARED: (full, True)}
    return ways | ({EXACT: (full, False)} if arguments.exact else {})


def _load(bundle: Bundle, once: bool) -> Network:
    return load_network(bundle, choose_engine("onnxruntime", "fp32", bundle, batch=4), 4, once=once)


def _timed(network: Network, image: Pixels) -> Round:
    """Segment an image once."""
    stopwatch = Stopwatch()
    clock, processor = time.perf_counter(), time.process_time()
    pipeline = Pipeline(network, ArraySource(image), stopwatch=stopwatch)
    for _ in pipeline.blocks(grid_of(network.manifest, *image.shape[:2]).region()):
        pass
    return _round(stopwatch.times(), time.perf_counter() - clock, time.process_time() - processor)


def _round(times: Times, clock: float, processor: float) -> Round:
    """What a run took; all that the stopwatch has not seen is the engine's, which its stages divide."""
    engines: tuple[Stage, ...] = ("encode", "segment")
    stages = {name: times.of(name).processor for name in engines}
    ours = times.of("read", "shrink", "gather", "merge", "write", "wait", "other").processor
    engine = (processor - ours) / sum(stages.values())
    return Round(clock=clock, processor=processor, encode=engine * stages["encode"], segment=engine * stages["segment"])


if __name__ == "__main__":
    main()
