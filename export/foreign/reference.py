"""The reference of the parity gate: a foreign graph unchanged in ONNX Runtime, with its scaling and scores in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from fctl.calib.onnx_session import InferenceSession, load_session
from fctl.runtime.errors import CheckpointError, InputError

from .options import Array, Contract, ForeignOptions, ImageInput, first_line


class RunError(CheckpointError):
    """A graph that ONNX Runtime cannot run, or that does not give one output for each image."""


def load_graph(graph: Path | onnx.ModelProto) -> InferenceSession:
    """Load a foreign graph in ONNX Runtime.

    Args:
        graph: The graph, or its file.

    Returns:
        A session on the CPU.

    Raises:
        RunError: ONNX Runtime cannot load it.
    """
    try:
        return load_session(graph)
    except Exception as error:  # its exceptions share no base class of their own
        raise _refusal(error) from error


def run_graph(session: InferenceSession, contract: Contract, images: Sequence[Array]) -> Array:
    """Run a foreign graph, in batches of the size that it takes.

    Args:
        session: The graph.
        contract: What was found out about it.
        images: For each of its inputs, images (N, ...) in its layout and dtype, scaled.

    Returns:
        The output (N, ...) of the graph.

    Raises:
        RunError: ONNX Runtime cannot run it, or it does not give one output for each image.
    """
    count, names = len(images[0]), [image.name for image in contract.images]
    size = contract.batch or count
    padded = [np.concatenate([one, np.repeat(one[-1:], -count % size, axis=0)]) for one in images]
    try:
        runs = [
            np.asarray(session.run([contract.output], dict(zip(names, parts, strict=True)))[0])
            for parts in zip(*(np.split(one, len(one) // size) for one in padded), strict=True)
        ]
    except Exception as error:
        raise _refusal(error) from error
    shapes = {run.shape for run in runs}
    if len(shapes) > 1 or runs[0].shape[:1] != (size,):
        remedy = "a detector's boxes cannot be merged"
        if size == 1 and runs[0].ndim in (2, 3) and runs[0].shape[-1] > 1:
            remedy = "the output lost its batch: name the axis that the network squeezes, as in squeeze(1)"
        raise RunError(
            expected=f"an output {contract.output!r} with scores or class ids of each of {size} images",
            found=listed(shapes),
            remedy=remedy,
        )
    return np.concatenate(runs)[:count]


def scaled(raw: Sequence[Array], contract: Contract, options: ForeignOptions) -> list[Array]:
    """Scale raw patches and windows as the graph takes them.

    Args:
        raw: For each of its inputs, raw pixels (N, bands, side, side).
        contract: What was found out about the graph.
        options: What the user states about the network.

    Returns:
        Images of the inputs' dtypes, (N, bands, side, side) or (N, side, side, bands) by the layout.
    """
    return [_scaled(pixels, image, options) for pixels, image in zip(raw, contract.images, strict=True)]


def _scaled(pixels: Array, image: ImageInput, options: ForeignOptions) -> Array:
    """Raw pixels (N, bands, side, side) as one of the graph's inputs takes them."""
    if image.floating:
        mean, std = (np.array(values).reshape(-1, 1, 1) for values in (image.mean, image.std))
        pixels = ((pixels.astype(np.float64) * image.scale - mean) / std).astype(image.dtype)
    return np.ascontiguousarray(pixels if options.layout == "nchw" else pixels.transpose(0, 2, 3, 1))


def scores_of(output: Array, contract: Contract, options: ForeignOptions) -> NDArray[np.float32]:
    """Turn the output of a graph into scores.

    Args:
        output: Logits, probabilities or class ids of N images, as the graph gives them.
        contract: What was found out about the graph.
        options: What the user states about the network.

    Returns:
        Scores (N, classes, P, P) float32: enlarged to the size that the network scores, a single channel made two,
        class ids made one-hot.

    Raises:
        InputError: There are class ids without a name.
    """
    count, tile = len(options.classes), contract.scored
    if options.activation == "labels":
        side = max(output.shape[1:])
        ids = np.rint(output.reshape(-1, side, side)).astype(np.int64)
        if ids.min() < 0 or ids.max() >= count:
            raise InputError(
                f"the network gives class ids {ids.min()} to {ids.max()}, found {count} names", subject="`classes`"
            )
        ids = ids[:, (np.arange(tile) * side) // tile][:, :, (np.arange(tile) * side) // tile]
        votes: NDArray[np.float32] = (ids[:, None] == np.arange(count)[:, None, None]).astype(np.float32)
        return votes
    scores = output.astype(np.float32)
    scores = scores if contract.scores_layout == "nchw" else scores.transpose(0, 3, 1, 2)
    if scores.shape[1] == 1:
        first = 1 - scores if options.activation == "sigmoid" else 0 * scores
        scores = np.concatenate([first, scores], axis=1)
    return _enlarged(scores, tile)


def _enlarged(scores: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Scores (N, C, h, w) enlarged to (N, C, side, side): bilinear, with half-pixel centres."""
    if scores.shape[-1] == side:
        return scores
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))
        for plane in scores.reshape(-1, *scores.shape[2:])
    ]
    return np.stack(planes).reshape(*scores.shape[:2], side, side)


def _refusal(error: Exception) -> RunError:
    return RunError(f"ONNX Runtime cannot run it: {first_line(error)}", remedy="export it anew")


def listed(shapes: set[tuple[int, ...]]) -> str:
    """Shapes as text, such as "(1, 3) and (2, 3)"."""
    return " and ".join(str(shape) for shape in sorted(shapes))
