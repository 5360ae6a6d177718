"""How near a network comes to what an engine can do at all: python -m benchmarks.limit [PRESET ...] [--width 0.5].

The yardstick is a large matrix product, 2048 x 2048 by 2048 x 2048, in the same engine and precision; convolutions of
many channels can be a little faster. Multiplications a second of the network's graphs, on patches with exact contexts,
are divided by those of the product. Steps take turns, and medians are printed. `default` is the bundle that comes with
fctl; presets have random weights.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from fctl.calib.sample import sample_patches, shipped_images
from fctl.runtime.bundle.manifest import GraphSpec, TensorSpec
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256
from fctl.runtime.engines.base import HostEngine, RunPrecision
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import joined

from .engines import RUNS
from .parts.graph_work import giga_macs
from .parts.networks import load_engine, runs
from .parts.random_weights import make_preset
from .parts.timing import in_turn

_SIDE = 2048


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=["default"], metavar="PRESET")
    parser.add_argument("--width", type=float, default=1.0, help="of the networks with random weights")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"| network | engine | GMAC/s of the network | of a matrix product | share |\n|{'---|' * 5}")
    for name in arguments.presets:
        with tempfile.TemporaryDirectory(prefix="fctl-") as folder:
            scratch = Path(folder)
            made = name == "default"
            bundle = read_bundle(name) if made else make_preset(name, scratch, classes=5, width=arguments.width).bundle
            for backend, precision in RUNS:
                _measure(name, bundle, backend, precision, scratch, arguments)


def _measure(
    name: str, bundle: Bundle, backend: str, precision: RunPrecision, scratch: Path, arguments: argparse.Namespace
) -> None:
    """Time one network and the product in one engine, and print the row."""
    batch = joined(sample_patches(bundle.manifest, shipped_images(), arguments.batch, seed=1))
    try:
        network = load_engine(bundle, backend, precision, arguments.batch)
        steps = {"network": runs(network, batch), "product": _product(backend, precision, scratch / "product.onnx")}
    except EngineError as error:
        print(f"skipped {backend} {precision}: {error}")
        return
    seconds = {step: statistics.median(taken) for step, taken in in_turn(steps, arguments.rounds).items()}
    network.close()
    reached = arguments.batch * _work(bundle) / seconds["network"]
    limit = _SIDE**3 / 1e9 / seconds["product"]
    print(f"| {name} | {backend} {precision} | {reached:.0f} | {limit:.0f} | {reached / limit:.0%} |", flush=True)


def _work(bundle: Bundle) -> float:
    """The multiplications of a patch with exact contexts, in 10^9: each encoder once for each context that it has."""
    manifest = bundle.manifest
    roles = [context.encoder for context in manifest.contexts if context.encoder] + [manifest.segmenter.role]
    return sum(giga_macs(bundle.graph(role, "fp32")[0]) for role in roles)


def _product(backend: str, precision: RunPrecision, path: Path) -> Callable[[], object]:
    """What multiplies two large matrices in an engine."""
    names = ("window", "features")
    values = np.random.default_rng(0).standard_normal((2, _SIDE, _SIDE)).astype(np.float32)
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", _SIDE, _SIDE]) for name in names]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["window", "weight"], ["features"])], "product", tensors[:1], tensors[1:],
        [onnx.numpy_helper.from_array(values[0], "weight")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    specs = [TensorSpec(name=name, dtype="float32", shape=("N", _SIDE, _SIDE)) for name in names]
    engine = choose_engine(backend, precision)
    assert isinstance(engine, HostEngine), "this is for engines of a CPU"
    spec = GraphSpec(
        role="product", precision="fp32", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=tuple(specs[:1]), outputs=tuple(specs[1:]),
    )  # fmt: skip
    session = engine.session(path, spec, 1)
    return lambda: session.run({"window": values[1:]})


if __name__ == "__main__":
    main()
