"""PyTorch modules of others: made, run and traced."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from pathlib import Path
from typing import Any

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
    """A module of others that returns one tensor."""

    def __init__(self, module: nn.Module, origin: str) -> None:
        super().__init__()
        self.module, self.origin = module, origin

    def forward(self, image: Tensor) -> Tensor:
        """(N, bands, H, W) float32 -> what the module scores."""
        output: Any = self.module(image)
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        for field in _FIELDS:
            if isinstance(output, dict) and field in output:
                output = output[field]
            elif not isinstance(output, Tensor) and hasattr(output, field):
                output = getattr(output, field)
        if not isinstance(output, Tensor):
            found = type(output).__name__
            raise CheckpointError(
                f"{self.origin}: expected a tensor, or {' or '.join(_FIELDS)} in what the module returns, found {found}"
            )
        return output


def image_network(factory: str) -> ImageNetwork:
    """The module that ``package.module:factory`` makes, in evaluation mode; the current folder is searched too."""
    module, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # anything may go wrong in code of others
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise CheckpointError(
            f"{factory}: expected a function without arguments that makes a PyTorch module, found "
            f"{type(error).__name__}: {reason}"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise CheckpointError(f"{factory}: expected a PyTorch module, found {type(made).__name__}")
    return ImageNetwork(made.eval().requires_grad_(False).float(), factory).eval()


def run_module(module: ImageNetwork, image: NDArray[Any]) -> NDArray[Any]:
    """Images (N, bands, P, P) float32 -> what the module gives."""
    with torch.inference_mode():
        scores: NDArray[Any] = module(torch.from_numpy(np.ascontiguousarray(image))).numpy()
    return scores


def trace_module(module: ImageNetwork, origin: str, bands: int, tile: int) -> onnx.ModelProto:
    """The module as ONNX, for any batch if it can be, else for a batch of 1. Raises CheckpointError."""
    image = torch.zeros(2, bands, tile, tile)
    try:
        module(image)
    except CheckpointError:
        raise
    except Exception as error:  # code of others
        raise CheckpointError(
            f"{origin}: the module cannot take an image (2, {bands}, {tile}, {tile}): {first_line(error)}; "
            "see --bands and --tile"
        ) from error
    with contextlib.suppress(Exception):  # where the module's code takes the batch for a number
        model = trace(module, {"image": image}, "scores")
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            return model
    log.warning("warning: %s cannot be exported for any batch: the bundle's is fixed to 1", origin)
    try:
        return trace(module, {"image": image[:1]}, "scores", symbolic_batch=False)
    except Exception as error:
        raise CheckpointError(
            f"{origin}: PyTorch cannot export the module to ONNX: {first_line(error)}; export it by other means and "
            "give the .onnx file"
        ) from error
