"""Foreign PyTorch modules: made, run and traced."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.errors import CheckpointError, InputError

from ..tracing import trace, trace_script
from .inputs import named_inputs
from .options import STRIDE, ForeignOptions, first_line, sides_remedy
from .outputs import chosen

log = logging.getLogger(__name__)

PATCH_INPUT = "image"
"""What the patch's input is called in a graph that a module is traced to."""


class ImageNetwork(nn.Module):
    """A foreign module, of whose output one tensor is returned.

    Args:
        module: The module.
        origin: The name of the module in error messages.
        names: The arguments of its forward that take the patch and the contexts; none for the first one alone.
        output: The name of the output to use; None where that is clear.
    """

    def __init__(self, module: nn.Module, origin: str, names: Sequence[str] = (), output: str | None = None) -> None:
        super().__init__()
        self.module, self.origin, self.names, self.output = module, origin, tuple(names), output

    def forward(self, patch: Tensor, *windows: Tensor) -> Tensor:
        """Run the module.

        Args:
            patch: Images (N, bands, H, W) float32.
            windows: Those of each context, (N, bands, S, S) float32.

        Returns:
            The tensor that the module returns: alone, by the name that was given, or as "out" or "logits".

        Raises:
            CheckpointError: The module returns no tensor.
            InputError: It returns several, none of which is clearly the scores.
        """
        if not self.names:
            return chosen(self.module(patch), self.output, self.origin)
        images = dict(zip(self.names, (patch, *windows), strict=True))
        return chosen(self.module(**images), self.output, self.origin)


def image_network(factory: str, options: ForeignOptions) -> ImageNetwork:
    """Make a foreign module.

    Args:
        factory: A function without arguments, as ``package.module:factory``; the current folder is searched too. Or a
            TorchScript file.
        options: What the user states about its arguments and its output.

    Returns:
        The module that the function makes, in evaluation mode and in float32.

    Raises:
        CheckpointError: The function is not found, fails, or makes no PyTorch module; or the file cannot be read.
        InputError: The options name arguments that the module's forward lacks, or leave some out.
    """
    made = _read_script(Path(factory)) if Path(factory).is_file() else _made(factory)
    if not isinstance(made, nn.Module):
        raise CheckpointError(subject=factory, expected="a PyTorch module", found=type(made).__name__)
    module = made.eval().float()
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # ScriptModules have no method that does it
    needed, others = _arguments(module)
    names: list[str] = []
    if len(needed) > 1 or options.contexts or options.input is not None:
        names = named_inputs(needed, factory, options, others)
    return ImageNetwork(module, factory, names, options.output).eval()


def of_traced(options: ForeignOptions) -> ForeignOptions:
    """What is stated about a module, of the graph that `trace_module` makes of it."""
    contexts = tuple(replace(context, input=f"window_{context.name}") for context in options.contexts)
    return replace(options, input=PATCH_INPUT, contexts=contexts, output=None)


def _arguments(module: nn.Module) -> tuple[list[str], list[str]]:
    """The arguments that a module's forward needs, and those that it takes besides, as far as they have names."""
    if isinstance(module, torch.jit.ScriptModule):
        taken = module.forward.schema.arguments[1:]  # type: ignore[attr-defined]  # a method of TorchScript has one
        defaults = {argument.name: argument.has_default_value() for argument in taken}
    else:
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(module.forward).parameters.values()
        defaults = {one.name: one.default is not inspect.Parameter.empty for one in parameters if one.kind in named}
    return [name for name, known in defaults.items() if not known], [name for name, known in defaults.items() if known]


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


def run_module(module: ImageNetwork, images: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Run a foreign module.

    Args:
        module: The module.
        images: For the patch and each context, images (N, bands, side, side) float32.

    Returns:
        The module's output.
    """
    with torch.inference_mode():
        scores: NDArray[np.generic] = module(*(torch.from_numpy(np.ascontiguousarray(one)) for one in images)).numpy()
    return scores


def trace_module(module: ImageNetwork, origin: str, bands: int, sides: Mapping[str, int]) -> onnx.ModelProto:
    """Trace a foreign module, for any batch where that is possible, and else for a batch of 1.

    Args:
        module: The module.
        origin: The name of the module in error messages.
        bands: The bands of its images.
        sides: By the name that an input is to have, the side of its image in pixels; the patch comes first.

    Returns:
        The module as ONNX, with inputs of these names and an output "scores".

    Raises:
        CheckpointError: The module cannot take such images, or PyTorch cannot trace it.
    """
    images = {  # of NumPy, which says by MemoryError that they are too large
        name: torch.from_numpy(np.zeros((2, bands, side, side), np.float32)) for name, side in sides.items()
    }
    first = {name: image[:1] for name, image in images.items()}
    for count, given in ((2, images), (1, first)):
        shape = tuple(_tried(module, list(given.values()), origin).shape)
        if shape[:1] != (count,):
            raise CheckpointError(
                subject=origin,
                expected=f"an output with scores of each of {count} images",
                found=f"{shape}",
                remedy="the output lost its batch: name the axis that the module squeezes, as in squeeze(1)",
            )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return _traced_script(module, images, origin)
    with contextlib.suppress(Exception):  # where the module's code makes a number of the batch
        model = trace(module, images, "scores")
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            return model
    log.warning("%s cannot be exported for any batch: the bundle's is fixed to 1", origin)
    try:
        return trace(module, first, "scores", symbolic_batch=False)
    except Exception as error:
        raise _untraceable(error, origin) from error


def _tried(module: ImageNetwork, images: Sequence[Tensor], origin: str) -> Tensor:
    """The module's output for some images."""
    try:
        with torch.inference_mode():
            return module(*images)  # type: ignore[no-any-return]
    except (CheckpointError, InputError):
        raise
    except Exception as error:  # foreign code may raise anything
        shapes = " and ".join(str(tuple(image.shape)) for image in images)
        remedy = "see `bands`, `tile` and the size of each `context`"
        if len(images) == 1:
            remedy = _sides_remedy(module, images[0]) or "see `bands` and `tile`"
        raise CheckpointError(
            f"the module cannot take {'images' if len(images) > 1 else 'an image'} {shapes}: {first_line(error)}",
            subject=origin,
            remedy=remedy,
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


def _traced_script(module: ImageNetwork, images: Mapping[str, Tensor], origin: str) -> onnx.ModelProto:
    """A module of TorchScript as ONNX, which only PyTorch's former exporter takes."""
    try:
        model = trace_script(module, images, "scores")
    except Exception as error:
        raise _untraceable(error, origin) from error
    kept = {value.name for value in model.graph.input}
    unread = [name for name, given in zip(module.names, images, strict=False) if given not in kept]
    if unread:  # that exporter drops inputs which change nothing
        problem = f"its scores do not depend on {', '.join(unread)}"
        raise CheckpointError(problem, subject=origin, remedy="leave it out of the network")
    return model


def _untraceable(error: Exception, origin: str) -> CheckpointError:
    """The error of a module that PyTorch does not export, with the reason and without the exporter's headings."""
    cause = error.__cause__ or error
    return CheckpointError(
        f"PyTorch cannot export the module to ONNX: {first_line(cause)}",
        subject=origin,
        remedy="export it by other means and give the .onnx file",
    )
