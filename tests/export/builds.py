"""Graphs through TensorRT-RTX's builder, which needs no GPU, and the committed list of what their layers became.

`WRITE_LAYERS=1 pytest tests/export -k builder` writes the list anew: look at what changed before you commit it.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from filelock import FileLock

from fctl.calib.check import check_quantised
from fctl.calib.layers import layers
from fctl.calib.plain import plain
from fctl.calib.quantise import quantised as with_pairs
from fctl.calib.sample import sample_patches
from fctl.calib.watch import peaks
from fctl.export.onnx_graph import save_model
from fctl.export.patches import parity_images
from fctl.export.precision.half import to_half
from fctl.runtime.bundle.manifest import GraphSpec, Precision
from fctl.runtime.bundle.store import Bundle, sha256
from fctl.runtime.engines.tensorrt.builder import build_plan, machine_for
from fctl.runtime.engines.tensorrt.plans import BuildOptions

LIST = Path(__file__).parents[1] / "data" / "layers.json"
OPTIONS = BuildOptions(flavour="tensorrt-rtx", batches=(2,), compute_capability=86)
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Layers = dict[str, Any]


def layers_of(bundle: Bundle, precision: Precision) -> Layers:
    """By role, ONNX nodes of every data type that products run in, and softmaxes that went into a fused attention."""
    return {
        graph.role: _built(bundle.folder / graph.file, graph)
        for graph in bundle.manifest.graphs
        if graph.precision == precision
    }


def narrow_preset(name: str, factory: pytest.TempPathFactory) -> Path:
    """A bundle of a preset, narrow and with random weights: exported once for all workers of pytest-xdist."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"preset-{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "net.fctl").is_dir():
            folder.mkdir(exist_ok=True)
            _export(name, folder)
    return folder / "net.fctl"


def _export(name: str, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from fctl.export import pipeline
    from fctl.export.card import ExportOptions
    from fctl.model.presets import preset
    from fctl.model.weights.checkpoints import save_checkpoint

    from ..model.helpers import lively, shallow_backbones, small_card, small_preset

    torch.set_num_threads(1)
    with shallow_backbones(), pytest.MonkeyPatch.context() as patch:  # as in all tests of the export
        network = lively(replace(small_preset(name), encoders="shared"))
        serving = replace(preset(name, classes=3).serving, overlap=16, scene=None)
        save_checkpoint(folder / "net.pt", replace(small_card(network.config), serving=serving), network.state_dict())
        patch.setattr(pipeline, "PARITY_PATCHES", 2)  # test_presets.py looks at more
        pipeline.export_bundle(folder / "net.pt", folder / "net.fctl", ExportOptions())


def halved(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle's fp32 graphs in fp16 as `add_precision` makes them, without its gate: random networks may miss it."""
    spec = bundle.manifest.image
    images, _ = parity_images(spec.bands, (), spec.dtype)
    ranges = peaks(bundle, sample_patches(bundle.manifest, images, 1, seed=0))
    graphs = []
    for graph in bundle.manifest.graphs:
        if graph.precision == "fp32":
            source, path = bundle.folder / graph.file, folder / f"{graph.role}.fp16.onnx"
            ins, outs = save_model(to_half(onnx.load(source), str(source), ranges[graph.role]).model, path)
            changes = {"file": path.name, "sha256": sha256(path), "bytes": None, "inputs": ins, "outputs": outs}
            graphs.append(replace(graph, precision="fp16", **changes))  # type: ignore[arg-type]
    return Bundle(folder, replace(bundle.manifest, graphs=tuple(graphs)))


def quantised(bundle: Bundle, folder: Path, patches: int = 1) -> Bundle:
    """The bundle's fp32 graphs with Q/DQ on all layers that may have it: the largest values of some patches.

    Accuracy is for another day: this is to see what the builder makes of int8.
    """
    spec = bundle.manifest.image
    images, _ = parity_images(spec.bands, (), spec.dtype)
    ranges = peaks(bundle, sample_patches(bundle.manifest, images, patches, seed=0), inputs=True)
    graphs = []
    for graph in bundle.manifest.graphs:
        if graph.precision == "fp32":
            source, path = bundle.folder / graph.file, folder / f"{graph.role}.int8.onnx"
            model = plain(onnx.load(source), str(source), "int8")
            model = with_pairs(model, [layer.name for layer in layers(model)], ranges[graph.role])
            check_quantised(model, str(source))
            save_model(model, path)
            graphs.append(replace(graph, precision="int8", file=path.name, sha256=sha256(path), bytes=None))
    return Bundle(folder, replace(bundle.manifest, graphs=tuple(graphs)))


def _built(path: Path, graph: GraphSpec) -> Layers:
    plan, record = build_plan(path, graph, OPTIONS, machine_for(OPTIONS))
    if graph.precision == "fp16":  # one of them is enough
        again, _ = build_plan(path, graph, OPTIONS, machine_for(OPTIONS))
        assert bytes(plan) == bytes(again), "two builds differ"
    assert record.layers is not None
    kinds = {node.name: node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    found: Layers = {}
    for dtype, products in record.layers.products.items():
        nodes = {node for layer in products for node in layer.split("+") if kinds.get(node) in _PRODUCTS}
        if nodes:
            found[dtype] = sorted(nodes)
    attention = {node for layer in record.layers.attention for node in layer.split("+") if kinds.get(node) == "Softmax"}
    return found | ({"fused attention": sorted(attention)} if attention else {})


def assert_listed(bundle: Bundle, precision: Precision, kind: str) -> None:
    """Build all graphs of a precision and compare their layers with the committed list."""
    found, name = layers_of(bundle, precision), f"{kind}, {precision}"
    known: dict[str, Layers] = json.loads(LIST.read_text("utf-8"))
    if os.environ.get("WRITE_LAYERS"):
        LIST.write_text(json.dumps(dict(sorted((known | {name: found}).items())), indent=1) + "\n", encoding="utf-8")
    else:
        assert found == known[name]
