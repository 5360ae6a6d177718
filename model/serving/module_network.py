"""A network in PyTorch behind the runtime's `Network`: for validation, for the parity gate and for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.runtime.bundle.manifest import Context, Manifest
from fctl.runtime.segment.batches import Positions, on_host
from fctl.runtime.segment.network import Features, Network, Scores
from fctl.runtime.tiling.turns import Windows

from ..network import FCtL


class ModuleNetwork(Network):
    """The module in place of a bundle's graphs, on the module's device and in its dtype.

    Args:
        manifest: How windows are cut and scores merged; a draft without graphs will do.
        network: The module, in evaluation mode.
        batch: Patches at once.
    """

    def __init__(self, manifest: Manifest, network: FCtL, batch: int = 4) -> None:
        super().__init__(manifest, batch)
        self._network, parameter = network, next(network.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype

    def encode(self, context: Context, windows: Windows) -> Tensor:
        """Features (N, C, H, W) of raw windows (N, bands, S, S)."""
        with torch.inference_mode():
            return self._network.encode(context.name, self._tensor(on_host(windows)))

    def join(self, context: Context, features: Sequence[Features]) -> Tensor:
        """Features (1, C, H, W), one for each patch, as features (N, C, H, W)."""
        with torch.inference_mode():
            return torch.cat([_tensor_of(part) for part in features])

    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Tensor:
        """Logits (N, classes, P, P) of raw patches (N, bands, P, P); on a GPU they are still on their way."""
        tensors = {name: _tensor_of(value) for name, value in features.items()}
        with torch.inference_mode():
            places = {name: self._tensor(place).to(self._dtype) for name, place in positions.items()}
            return self._network.segment(self._tensor(on_host(patch)), tensors, places)

    def on_host(self, scores: Scores) -> NDArray[np.float32]:
        """Scores as an array (N, classes, P, P); waits for them."""
        array: NDArray[np.float32] = _tensor_of(scores).float().cpu().numpy()
        return array

    def close(self) -> None:
        """Release the module and the GPU's memory that it held."""
        vars(self).pop("_network", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _tensor_of(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
