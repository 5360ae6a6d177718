"""Foreign PyTorch modules: made, run and traced."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.errors import CheckpointError, InputError

from ..tracing import trace, trace_script
from .options import STRIDE, first_line, sides_remedy
from .outputs import chosen

log = logging.getLogger(__name__)


class ImageNetwork(nn.Module):
    """A foreign module, of whose output one tensor is returned.

    Args:
        module: The module.
        origin: The name of the module in error messages.
        output: The name of the output to use; None where that is clear.
    """

    def __init__(self, module: nn.Module, origin: str, output: str | None = None) -> None:
        super().__init__()
        self.module, self.origin, self.output = module, origin, output

    def forward(self, image: Tensor) -> Tensor:
        """Run the module.

        Args:
            image: Images (N, bands, H, W) float32.

        Returns:
            The tensor that the module returns: alone, by the name that was given, or as "out" or "logits".

        Raises:
            CheckpointError: The module returns no tensor.
            InputError: It returns several, none of which is clearly the scores.
        """
        return chosen(self.module(image), self.output, self.origin)


def image_network(factory: str, output: str | None) -> ImageNetwork:
    """Make a foreign module.

    Args:
        factory: A function without arguments, as ``package.module:factory``; the current folder is searched too. Or a
            TorchScript file.
        output: The name of the output to use; None where that is clear.

    Returns:
        The module that the function makes, in evaluation mode and in float32.

    Raises:
        CheckpointError: The function is not found, fails, or makes no PyTorch module; or the file cannot be read.
    """
    made = _read_script(Path(factory)) if Path(factory).is_file() else _made(factory)
    if not isinstance(made, nn.Module):
        raise CheckpointError(subject=factory, expected="a PyTorch module", found=type(made).__name__)
    module = made.eval().float()
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # ScriptModules have no method that does it
    return ImageNetwork(module, factory, output).eval()


def _made(factory: str) -> object:
    """What a function makes."""
    module, _, name = factory.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)()
    except Exception as error:  # foreign code may raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise CheckpointError(
            subject=factory,
            expected="a function without arguments that makes a PyTorch module",
            found=f"{type(error).__name__}: {reason}",
        ) from error
    finally:
        sys.path.pop(0)


def _read_script(path: Path) -> nn.Module:
    """The module in a TorchScript file."""
    load: Callable[..., nn.Module] = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and many networks are shipped as such
        try:
            return load(path, map_location="cpu")
        except Exception as error:
            raise CheckpointError(
                f"PyTorch cannot read this TorchScript file: {first_line(error)}",
                subject=path,
                remedy="export the network to ONNX and give the .onnx file",
            ) from error


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
    for count in (2, 1):
        shape = tuple(_tried(module, image[:count], origin).shape)
        if shape[:1] != (count,):
            raise CheckpointError(
                subject=origin,
                expected=f"an output with scores of each of {count} images",
                found=f"{shape}",
                remedy="the output lost its batch: name the axis that the module squeezes, as in squeeze(1)",
            )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return _traced_script(module, image, origin)
    with contextlib.suppress(Exception):  # where the module's code makes a number of the batch
        model = trace(module, {"image": image}, "scores")
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            return model
    log.warning("%s cannot be exported for any batch: the bundle's is fixed to 1", origin)
    try:
        return trace(module, {"image": image[:1]}, "scores", symbolic_batch=False)
    except Exception as error:
        raise _untraceable(error, origin) from error


def _tried(module: ImageNetwork, image: Tensor, origin: str) -> Tensor:
    """The module's output for an image."""
    try:
        with torch.inference_mode():
            return module(image)  # type: ignore[no-any-return]
    except (CheckpointError, InputError):
        raise
    except Exception as error:  # foreign code may raise anything
        raise CheckpointError(
            f"the module cannot take an image {tuple(image.shape)}: {first_line(error)}",
            subject=origin,
            remedy=_sides_remedy(module, image) or "see `bands` and `tile`",
        ) from error


def _sides_remedy(module: ImageNetwork, image: Tensor) -> str | None:
    """A tile that works, where the module does not run with the one that was given; None where none does."""
    count, bands, tile, _ = image.shape
    side = -(-tile // STRIDE) * STRIDE
    with contextlib.suppress(Exception), torch.inference_mode():
        if side != tile:
            module(torch.zeros(count, bands, side, side))
            return sides_remedy(side)
    return None


def _traced_script(module: ImageNetwork, image: Tensor, origin: str) -> onnx.ModelProto:
    """A module of TorchScript as ONNX, which only PyTorch's former exporter takes."""
    try:
        return trace_script(module, image, "image", "scores")
    except Exception as error:
        raise _untraceable(error, origin) from error


def _untraceable(error: Exception, origin: str) -> CheckpointError:
    """The error of a module that PyTorch does not export, with the reason and without the exporter's headings."""
    cause = error.__cause__ or error
    return CheckpointError(
        f"PyTorch cannot export the module to ONNX: {first_line(cause)}",
        subject=origin,
        remedy="export it by other means and give the .onnx file",
    )
