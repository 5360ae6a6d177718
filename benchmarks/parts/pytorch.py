"""The network in PyTorch behind the runtime's `Network`, so that it is measured as the engines are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Context
from fctl.runtime.bundle.records import decode
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.base import Engine, Request, RunPrecision
from fctl.runtime.errors import EngineError, InputError
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.merge import Merger
from fctl.runtime.tiling.sources import Stack
from fctl.runtime.tiling.turns import UPRIGHT, Turn
from fctl.runtime.tiling.windows import Grid

EAGER, COMPILED = "pytorch", "pytorch-compile"


class PyTorch(Engine):
    """Where PyTorch works: on the GPU where it can, else on the CPU."""

    name = EAGER

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        import torch

        self.place = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def device(self) -> str:
        """The device that runs."""
        import torch

        return torch.cuda.get_device_name() if self.place.type == "cuda" else "CPU"

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """What makes sense to measure."""
        return ("fp32", "fp16")


class TorchNetwork(Network[Any, Any]):
    """One module from raw windows to scores: "features" are the windows, and a global context is encoded again for
    every patch."""

    def __init__(self, bundle: Bundle, engine: PyTorch, batch: int, module: Any) -> None:
        super().__init__(bundle, engine, batch)
        self._place, self._module = engine.place, module

    def encode(self, context: Context, windows: Stack) -> NDArray[Any]:
        """The windows."""
        return np.ascontiguousarray(windows)

    def join(self, context: Context, features: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Windows (1, bands, S, S), one for each patch -> (N, bands, S, S)."""
        return np.concatenate(features)

    def segment(
        self, patch: Stack, features: Mapping[str, NDArray[Any]], positions: Mapping[str, NDArray[np.float32]]
    ) -> Any:
        """Queue one batch; scores are a tensor."""
        import torch

        with torch.inference_mode():
            windows = {name: self._tensor(array) for name, array in features.items()}
            dtype = next(self._module.parameters()).dtype
            places = {name: self._tensor(array).to(dtype) for name, array in positions.items()}
            return self._module(self._tensor(patch), windows, places)

    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], Any]) -> NDArray[np.float32]:
        """Scores on the host, where they are merged."""
        assert tuple(turns) == (UPRIGHT,)
        return self.on_host(infer(UPRIGHT))

    def on_host(self, scores: Any) -> NDArray[np.float32]:
        """Scores as an array; waits for them."""
        array: NDArray[np.float32] = scores.float().cpu().numpy()
        return array

    def merger(self, grid: Grid, probabilities: bool) -> Merger:
        """The host's."""
        return Merger(grid, len(self.manifest.classes), self.manifest.merge, self.manifest.scores)

    def close(self) -> None:
        """Give the memory back."""
        import torch

        del self._module
        if self._place.type == "cuda":
            torch.cuda.empty_cache()

    def _tensor(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._place)


def load(bundle: Bundle, checkpoint: Path | None, kind: str, precision: RunPrecision, batch: int) -> TorchNetwork:
    """The bundle's network, eager or compiled; random weights without a checkpoint. Raises EngineError, InputError."""
    engine = PyTorch(Request(precision=precision))
    if bundle.manifest.network is None:
        raise InputError("the bundle names no network of fctl: PyTorch cannot rebuild it")
    if engine.place.type == "cpu" and (kind, precision) != (EAGER, "fp32"):
        raise EngineError("torch.cuda finds no GPU: on the CPU, only eager fp32 is measured")
    import torch

    module = _module(bundle, checkpoint).to(engine.place).to(memory_format=torch.channels_last)
    if precision == "fp16":
        module = module.half()
    if kind == COMPILED:
        module = torch.compile(module)
    return TorchNetwork(bundle, engine, batch, module)


def tf32() -> str:
    """How PyTorch computes fp32 on GPUs from Ampere on."""
    import torch

    convolutions = "TF32" if torch.backends.cudnn.allow_tf32 else "fp32"
    return f"products {torch.get_float32_matmul_precision()}, convolutions {convolutions}"


def _module(bundle: Bundle, checkpoint: Path | None) -> Any:
    import torch

    from fctl.model.config import NetworkConfig
    from fctl.model.network import FCtL
    from fctl.model.weights.checkpoints import load_network, read_checkpoint

    if checkpoint is None:
        torch.manual_seed(0)
        return FCtL(decode(NetworkConfig, bundle.manifest.network)).eval()
    read = read_checkpoint(checkpoint)
    if read.card is None:
        raise InputError(f"{checkpoint}: expected a checkpoint of fctl, found bare weights; leave it out")
    return load_network(read.card.network, read.state, str(checkpoint))
