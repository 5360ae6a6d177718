"""A bundle's network in PyTorch, eager or compiled, behind the runtime's `Network`: measured as the engines are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fctl.runtime.bundle.records import decode
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.base import RunPrecision
from fctl.runtime.errors import EngineError, InputError

from .networks import Loaded

if TYPE_CHECKING:
    from fctl.model.interface import ContextNetwork

EAGER, COMPILED = "pytorch", "pytorch-compile"
PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "fp16")

_STEPS = ("encode", "segment")  # what `ModuleNetwork` runs of a module


def load(bundle: Bundle, checkpoint: Path | None, kind: str, precision: RunPrecision, batch: int) -> Loaded:
    """Load a bundle's network on the GPU where PyTorch finds one, else on the CPU.

    Args:
        bundle: The bundle.
        checkpoint: The network's weights; None for random ones, of which only the speed counts.
        kind: `EAGER` or `COMPILED`.
        precision: One of `PRECISIONS`.
        batch: Patches at once.

    Returns:
        The network.

    Raises:
        InputError: The bundle was made from another network than fctl's, or the checkpoint holds bare weights.
        EngineError: On the CPU, only eager fp32 is measured.
    """
    import torch

    from fctl.model.serving.module_network import ModuleNetwork

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if bundle.manifest.network is None:
        raise InputError("the bundle names no network of fctl: PyTorch cannot rebuild it")
    if place.type == "cpu" and (kind, precision) != (EAGER, "fp32"):
        raise EngineError("torch.cuda finds no GPU: on the CPU, only eager fp32 is measured")
    module = channels_last(module_of(bundle, checkpoint).to(place))
    if precision == "fp16":
        module = module.half()
    if kind == COMPILED:
        compile_steps(module)
    device = torch.cuda.get_device_name() if place.type == "cuda" else "CPU"
    return Loaded(network=ModuleNetwork(bundle.manifest, module, batch), device=device)


def channels_last(module: ContextNetwork) -> ContextNetwork:
    """Lay a module's convolutions out with their channels last, which is faster, and return it."""
    import torch
    from torch.nn.utils import convert_conv2d_weight_memory_format

    return convert_conv2d_weight_memory_format(module, torch.channels_last)


def compile_steps(module: ContextNetwork) -> None:
    """Let `torch.compile` compile the two steps of a module, encoding and segmenting, each when it first runs."""
    import torch

    for step in _STEPS:
        setattr(module, step, torch.compile(getattr(module, step)))


def tf32() -> str:
    """How PyTorch computes fp32 on GPUs from Ampere on."""
    import torch

    convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "fp32"
    return f"products {torch.get_float32_matmul_precision()}, convolutions {convolutions}"


def module_of(bundle: Bundle, checkpoint: Path | None) -> ContextNetwork:
    """The network of a bundle as a module on the CPU.

    Args:
        bundle: A bundle that was made from a network of fctl.
        checkpoint: The network's weights; None for random ones.

    Returns:
        The module, in evaluation mode.

    Raises:
        InputError: The checkpoint holds bare weights.
        CheckpointError: The checkpoint cannot be read.
    """
    import torch

    from fctl.model.build import build
    from fctl.model.config import NetworkConfig
    from fctl.model.weights.checkpoints import load_network, read_checkpoint

    if checkpoint is None:
        torch.manual_seed(0)
        return build(decode(NetworkConfig, bundle.manifest.network)).eval()
    read = read_checkpoint(checkpoint)
    if read.card is None:
        raise InputError(
            subject=checkpoint, expected="a checkpoint of fctl", found="bare weights", remedy="leave it out"
        )
    return load_network(read.card.network, read.state, str(checkpoint))
