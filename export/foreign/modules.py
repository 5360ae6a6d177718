"""Foreign PyTorch modules: made, run and traced."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.errors import CheckpointError

from ..tracing import trace
from .options import first_line

log = logging.getLogger(__name__)

_FIELDS = ("out", "logits")  # of torchvision's dictionaries, and of transformers' outputs


class ImageNetwork(nn.Module):
    """A foreign module, of whose output one tensor is returned.

    Args:
        module: The module.
        origin: The name of the module in error messages.
    """

    def __init__(self, module: nn.Module, origin: str) -> None:
        super().__init__()
        self.module, self.origin = module, origin

    def forward(self, image: Tensor) -> Tensor:
        """Run the module.

        Args:
            image: Images (N, bands, H, W) float32.

        Returns:
            The tensor that the module returns: alone, first of several, or as one of the fields "out" and "logits".

        Raises:
            CheckpointError: The module returns no such tensor.
        """
        output: object = self.module(image)
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        for field in _FIELDS:
            if isinstance(output, dict) and field in output:
                output = output[field]
            elif not isinstance(output, Tensor) and hasattr(output, field):
                output = getattr(output, field)
        if not isinstance(output, Tensor):
            raise CheckpointError(
                subject=self.origin,
                expected=f"a tensor, or {' or '.join(_FIELDS)} in what the module returns",
                found=type(output).__name__,
            )
        return output


def image_network(factory: str) -> ImageNetwork:
    """Make a foreign module.

    Args:
        factory: A function without arguments, as ``package.module:factory``; the current folder is searched too.

    Returns:
        The module that the function makes, in evaluation mode and in float32.

    Raises:
        CheckpointError: The function is not found, fails, or makes no PyTorch module.
    """
    module, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # foreign code may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise CheckpointError(
            subject=factory,
            expected="a function without arguments that makes a PyTorch module",
            found=f"{type(error).__name__}: {reason}",
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise CheckpointError(subject=factory, expected="a PyTorch module", found=type(made).__name__)
    return ImageNetwork(made.eval().requires_grad_(False).float(), factory).eval()


def run_module(module: ImageNetwork, image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Run a foreign module.

    Args:
        module: The module.
        image: Images (N, bands, P, P) float32.

    Returns:
        The module's output.
    """
    with torch.inference_mode():
        scores: NDArray[np.generic] = module(torch.from_numpy(np.ascontiguousarray(image))).numpy()
    return scores


def trace_module(module: ImageNetwork, origin: str, bands: int, tile: int) -> onnx.ModelProto:
    """Trace a foreign module, for any batch where that is possible, and else for a batch of 1.

    Args:
        module: The module.
        origin: The name of the module in error messages.
        bands: The bands of its image.
        tile: The side of its image, in pixels.

    Returns:
        The module as ONNX, with an input "image" and an output "scores".

    Raises:
        CheckpointError: The module cannot take such an image, or PyTorch cannot trace it.
    """
    image = torch.zeros(2, bands, tile, tile)
    try:
        module(image)
    except CheckpointError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise CheckpointError(
            f"the module cannot take an image (2, {bands}, {tile}, {tile}): {first_line(error)}",
            subject=origin,
            remedy="see `bands` and `tile`",
        ) from error
    with contextlib.suppress(Exception):  # where the module's code makes a number of the batch
        model = trace(module, {"image": image}, "scores")
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            return model
    log.warning("%s cannot be exported for any batch: the bundle's is fixed to 1", origin)
    try:
        return trace(module, {"image": image[:1]}, "scores", symbolic_batch=False)
    except Exception as error:
        raise CheckpointError(
            f"PyTorch cannot export the module to ONNX: {first_line(error)}",
            subject=origin,
            remedy="export it by other means and give the .onnx file",
        ) from error
