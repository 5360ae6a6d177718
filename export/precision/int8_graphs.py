"""int8 graphs as files: of some layers on trial, and beside the fp32 graphs of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fctl.calib.check import check_quantised
from fctl.calib.search import Point
from fctl.calib.trials import Fp32Graphs, Names, Numbers
from fctl.runtime.bundle.manifest import SCHEMA, GraphSpec, Manifest
from fctl.runtime.bundle.parity import Parity
from fctl.runtime.bundle.store import Bundle, sha256, write_manifest

from ..copies import copy_files
from ..onnx_graph import save_model


def int8_bundle(graphs: Fp32Graphs, names: Names, numbers: Numbers, folder: Path) -> Bundle:
    """Write int8 graphs alone.

    Args:
        graphs: The fp32 graphs of a bundle.
        names: The layers that become int8, by role.
        numbers: Their ranges and biases.
        folder: An existing folder for the files.

    Returns:
        A bundle of the int8 graphs, which has no manifest on disk.

    Raises:
        BundleError: A graph is not as TensorRT takes it.
    """
    made = tuple(_write_graph(graphs, graph, names, numbers, folder) for graph in fp32_specs(graphs.bundle))
    return Bundle(folder, replace(graphs.bundle.manifest, graphs=made))


def write_bundle(
    graphs: Fp32Graphs, best: Point, numbers: Numbers, folder: Path, name: str, parity: Parity
) -> Manifest:
    """Copy a bundle, and add int8 graphs and what the gate found.

    Args:
        graphs: The fp32 graphs of the bundle.
        best: The layers that become int8.
        numbers: Their ranges and biases.
        folder: The folder of the copy.
        name: The name of the copy.
        parity: What the gate found.

    Returns:
        The manifest of the copy.

    Raises:
        BundleError: A graph is not as TensorRT takes it.
    """
    bundle = graphs.bundle
    copy_files(bundle.folder, folder)
    made = int8_bundle(graphs, best.chosen, numbers, folder).manifest.graphs
    graphs_of_both, parities = (*bundle.manifest.graphs, *made), (*bundle.manifest.parity, parity)
    manifest = replace(bundle.manifest, schema=SCHEMA, name=name, graphs=graphs_of_both, parity=parities)
    write_manifest(folder, manifest)
    return manifest


def fp32_specs(bundle: Bundle) -> tuple[GraphSpec, ...]:
    """The fp32 graphs of a bundle, but for those that encode contexts once a raster: they take little, and stay."""
    manifest = bundle.manifest
    return tuple(g for g in manifest.graphs if g.precision == "fp32" and g.role not in manifest.shared_roles)


def file_size(folder: Path, manifest: Manifest, precision: str) -> int:
    """The size of all graphs of one precision, in bytes."""
    return sum((folder / graph.file).stat().st_size for graph in manifest.graphs if graph.precision == precision)


def _write_graph(graphs: Fp32Graphs, graph: GraphSpec, names: Names, numbers: Numbers, folder: Path) -> GraphSpec:
    model = graphs.int8(graph.role, names.get(graph.role, ()), numbers)
    check_quantised(model, graph.role)
    path = folder / f"{Path(graph.file).stem}.int8.onnx"
    ins, outs = save_model(model, path)
    return GraphSpec(
        role=graph.role, precision="int8", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=ins, outputs=outs,
    )  # fmt: skip
