"""Segmenters of any origin made into bundles: scaling is put before the graph, a score for each class behind it.

The network takes a patch, and any number of windows that show more. PyTorch is needed only for PyTorch modules.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from fctl.calib.onnx_session import InferenceSession
from fctl.runtime.atomic import refuse_existing
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import sha256
from fctl.runtime.errors import CheckpointError, InputError

from .contract import OLDEST_OPSET, find_contract, read_model
from .make import Original, check_conversion, make_bundle
from .options import ForeignContext, ForeignOptions
from .reference import RunError, load_graph, run_graph

_REMEDY = "bundles are never changed: choose another `out`, or remove it"


def export_foreign_onnx(path: Path, out: Path, options: ForeignOptions) -> Manifest:
    """Export an ONNX file to a bundle, verified against the file as it came, in ONNX Runtime.

    Where it fails, nothing is left behind.

    Args:
        path: The file.
        out: The bundle folder to make.
        options: What the network takes and gives.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: The graph is no segmenter of images.
        InputError: The options do not fit the graph.
        RasterError: An image for the parity gate does not fit.
        OutputError: The folder exists already, or cannot be written.
        ParityError: The bundle does not compute what the network computes.
    """
    refuse_existing(out, remedy=_REMEDY)
    model, opset = read_model(path)
    contract = find_contract(model, str(path), options)
    session = _as_it_came(path, opset)
    original = Original(
        name="the ONNX file in ONNX Runtime", origin=str(path), digest=sha256(path),
        run=lambda images: run_graph(session, contract, images),
    )  # fmt: skip
    if opset < OLDEST_OPSET:
        original = replace(original, check=lambda images, outputs: check_conversion(
            outputs, run_graph(load_graph(model), contract, images), opset, str(path)
        ))  # fmt: skip
    return make_bundle(model, contract, original, out, options)


def _as_it_came(path: Path, opset: int) -> InferenceSession:
    """A file in ONNX Runtime, before anything is done to it."""
    try:
        return load_graph(path)
    except RunError as error:
        remedy = error.remedy
        if opset < OLDEST_OPSET:
            remedy = f"export the network with opset {OLDEST_OPSET} or newer: this one has {opset}"
        raise CheckpointError(error.problem, subject=path, remedy=remedy) from error


def export_foreign_module(factory: str, out: Path, options: ForeignOptions) -> Manifest:
    """Export a PyTorch module to a bundle, verified against the module itself.

    The module takes images (N, bands, H, W) float32: the patch, and one for each context as an argument of its own. It
    returns a tensor, something with ``out`` or ``logits``, or several tensors of which the options name one.

    Args:
        factory: What makes the module, as ``package.module:factory``; or a TorchScript file.
        out: The bundle folder to make.
        options: What the network takes and gives; its `tile` is needed.

    Returns:
        The manifest of the bundle.

    Raises:
        CheckpointError: There is no such module, or it is no segmenter of images.
        InputError: The options do not fit the module.
        RasterError: An image for the parity gate does not fit.
        OutputError: The folder exists already, or cannot be written.
        ParityError: The bundle does not compute what the module computes.
    """
    from .modules import PATCH_INPUT, image_network, of_traced, run_module, trace_module

    refuse_existing(out, remedy=_REMEDY)
    tile = options.tile
    if tile is None:
        raise InputError("a PyTorch module does not say its size: give `tile`", subject=factory)
    if options.layout != "nchw":
        raise InputError("PyTorch modules take nchw", subject="`layout`", remedy="leave it out")
    module = image_network(factory, options)
    options = of_traced(options)
    sides = {PATCH_INPUT: tile, **{context.input: context.size or tile for context in options.contexts}}
    model = trace_module(module, factory, options.bands or 3, sides)
    contract = find_contract(model, factory, options)
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    original = Original(
        name="the PyTorch module", origin=factory, digest=digest, run=lambda images: run_module(module, images)
    )
    return make_bundle(model, contract, original, out, options)


__all__ = ["ForeignContext", "ForeignOptions", "export_foreign_module", "export_foreign_onnx"]
