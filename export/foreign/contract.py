"""What a foreign graph takes and gives: read from the graph, and tried by running it."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx.inliner
import onnx.version_converter

from fctl.runtime.errors import CheckpointError, InputError

from .answers import check_scores, scores_layout
from .inputs import find_inputs
from .options import STRIDE, Contract, ForeignOptions, first_line, mean_and_std, sides_remedy
from .reference import RunError, listed, load_graph, run_graph, scaled
from .wrap import nodes_of

log = logging.getLogger(__name__)

OLDEST_OPSET = 13
"""What is put around a graph is written for this opset and newer ones."""

_LARGEST = (2 << 30) - (1 << 20)  # bytes of an ONNX file without external data


def read_model(path: Path) -> tuple[onnx.ModelProto, int]:
    """Read an ONNX file, without local functions and at an opset for which scaling and scores can be added.

    Args:
        path: The file; its external data may lie beside it.

    Returns:
        The model, and the opset of the file.

    Raises:
        CheckpointError: There is no such file, it is no ONNX file or too large, or it uses unknown operators.
    """
    if not path.is_file():
        raise CheckpointError(
            subject=path, expected="an ONNX file", found="a folder" if path.is_dir() else "no such file"
        )
    try:
        model = onnx.load(path)
    except onnx.checker.ValidationError as error:
        raise CheckpointError(
            f"cannot read its external data ({first_line(error)})",
            subject=path,
            remedy="copy the file and its data together",
        ) from error
    except Exception as error:  # the parser's exceptions share no base class
        found = f"none ({first_line(error)})"
        raise CheckpointError(subject=path, expected="an ONNX file", found=found) from error
    if not model.graph.node:
        raise CheckpointError(subject=path, expected="an ONNX file", found="a graph without nodes")
    if model.ByteSize() > _LARGEST:
        raise CheckpointError(f"{model.ByteSize() >> 20} MiB, a bundle holds graphs below 2 GiB", subject=path)
    _check_operators(model, str(path))
    model = onnx.inliner.inline_local_functions(model)  # not every engine knows functions
    opset = opset_of(model)
    if opset >= OLDEST_OPSET:
        return model, opset
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET), opset
    except Exception as error:  # it fails with plain RuntimeError and others
        raise CheckpointError(
            f"opset {opset} cannot be brought to {OLDEST_OPSET} ({first_line(error)})",
            subject=path,
            remedy=f"export the network with opset {OLDEST_OPSET} or newer",
        ) from error


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of a model's standard operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OLDEST_OPSET)


def find_contract(model: onnx.ModelProto, origin: str, options: ForeignOptions) -> Contract:
    """Find out what a foreign graph takes and gives, by trying it.

    Args:
        model: The graph; open sides of its input are fixed in place.
        origin: The name of the graph in error messages.
        options: What the user states about the network.

    Returns:
        What was found out, but for what the scores of real patches show.

    Raises:
        CheckpointError: The graph is no segmenter of images, or ONNX Runtime cannot run it.
        InputError: An option does not fit the graph.
    """
    if len(options.classes) < 2:
        raise InputError("expected the names of 2 or more classes (a binary network has two)", subject="`classes`")
    if len(set(options.classes)) < len(options.classes):
        raise InputError(subject="`classes`", expected="distinct names", found=", ".join(options.classes))
    taken = find_inputs(model, origin, options)
    found = Contract(
        images=taken.images, output=_output(model, origin, options), bands=taken.bands, batch=taken.batch,
        raw=taken.raw, scores=(), scores_layout=options.layout,
    )  # fmt: skip
    for image in found.images:
        mean_and_std(image, found.bands)
    found = _tried(model, found, origin, options)
    found = replace(found, scores_layout=scores_layout(found.scores, options))
    check_scores(found, options, origin)
    return found


def _check_operators(model: onnx.ModelProto, origin: str) -> None:
    """Raise CheckpointError for an operator that neither ONNX nor ONNX Runtime has."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = onnx.defs.has(node.op_type, domain) or (node.domain, node.op_type) in own
        if not known and domain != "com.microsoft":
            raise CheckpointError(
                f"unknown operator {node.op_type!r}{f' of {domain!r}' if domain else ''}: export the network with "
                "standard ONNX operators (TensorRT plugins and custom operators cannot be verified)",
                subject=origin,
            )


def _output(model: onnx.ModelProto, origin: str, options: ForeignOptions) -> str:
    """The name of the output to use."""
    names: list[str] = [value.name for value in model.graph.output]
    if options.output is not None:
        if options.output not in names:
            raise InputError(
                f"{origin} has no output {options.output!r}; it has {', '.join(names)}", subject="`output`"
            )
        return options.output
    if len(names) != 1:
        found = f"{len(names)}: choose with `output`: {', '.join(names)}"
        raise InputError(subject=origin, expected="one output", found=found)
    return names[0]


def _tried(model: onnx.ModelProto, contract: Contract, origin: str, options: ForeignOptions) -> Contract:
    """Run the model on different images, one and two at once where the batch is open, and learn its output's shape."""
    random = np.random.default_rng(0)
    shapes_of_raw = [(2, contract.bands, image.side, image.side) for image in contract.images]
    black = [np.zeros(shape, contract.raw) for shape in shapes_of_raw]
    noise = [random.integers(0, 255, shape).astype(contract.raw) for shape in shapes_of_raw]
    runs = [scaled(raw, contract, options) for raw in (black, noise)]
    try:
        session = load_graph(model)
        shapes = {run_graph(session, contract, images).shape for images in runs}
    except RunError as error:
        failure = _failure(error, origin, _sides_remedy(model, contract, options))
        if contract.batch is not None:
            raise failure from error
        contract = replace(contract, batch=1)
        try:
            shapes = {run_graph(load_graph(model), contract, images).shape for images in runs}
        except RunError:
            raise failure from error
        log.warning("%s takes one image at a time, though its batch is open: the bundle's is fixed", origin)
    else:
        try:
            run_graph(session, contract, [image[:1] for image in runs[0]])
        except RunError as error:
            raise _failure(error, origin) from error
    if len(shapes) > 1 or len(next(iter(shapes))) < 3:
        raise CheckpointError(
            f"output {contract.output!r} has a shape that depends on the image ({listed(shapes)}): expected scores or "
            "class ids for every pixel",
            subject=origin,
            remedy="a detector's boxes cannot be merged",
        )
    return replace(contract, scores=next(iter(shapes))[1:])


def _failure(error: RunError, origin: str, remedy: str | None = None) -> CheckpointError:
    """An error of a run as one about a network."""
    return CheckpointError(
        error.problem, subject=origin, expected=error.expected, found=error.found, remedy=remedy or error.remedy
    )


def _sides_remedy(model: onnx.ModelProto, contract: Contract, options: ForeignOptions) -> str | None:
    """A tile that works, where a graph of any size does not run with the one that was given; None where none does."""
    if contract.images[1:]:
        return "see `tile`, and the size of each `context`"
    if options.tile is None or not options.tile % STRIDE:
        return None
    side = -(-contract.tile // STRIDE) * STRIDE
    sample = replace(contract, images=(replace(contract.patch, side=side),), batch=contract.batch or 1)
    resized = copy.deepcopy(model)
    axes = next(value for value in resized.graph.input if value.name == contract.patch.name).type.tensor_type.shape.dim
    for axis in axes[2:4] if options.layout == "nchw" else axes[1:3]:
        axis.dim_value = side
    image = np.zeros((1, contract.bands, side, side), contract.raw)
    try:
        run_graph(load_graph(resized), sample, scaled([image], sample, options))
    except RunError:
        return None
    return sides_remedy(side)
