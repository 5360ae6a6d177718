"""A network in PyTorch behind the runtime's `Network`: for validation, for the parity gate and for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.runtime.bundle.manifest import Context, Manifest
from fctl.runtime.segment.batches import Positions, on_host
from fctl.runtime.segment.network import Cut, Features, Network, Scores, parts_of
from fctl.runtime.segment.passes import Maps
from fctl.runtime.tiling.turns import Windows

from ..interface import ContextNetwork, SharingNetwork


class ModuleNetwork(Network):
    """The module in place of a bundle's graphs, on the module's device and in its dtype.

    Args:
        manifest: How windows are cut and scores merged; a draft without graphs will do.
        network: The module, in evaluation mode.
        batch: Patches at once.
        once: Whether contexts that can be are encoded once a raster.
    """

    def __init__(self, manifest: Manifest, network: ContextNetwork, batch: int = 4, *, once: bool = False) -> None:
        super().__init__(manifest, batch, manifest.lattices if once else None)
        self._network, parameter = network, next(network.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype

    def encode(self, context: Context, windows: Windows) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S)."""
        if context.maps:
            return self.encode_gathered(context, windows, {})
        with torch.inference_mode():
            return self._network.encode(context.name, self._tensor(on_host(windows)))

    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """Features (1, C, H, W), one for each patch, as features (N, C, H, W)."""
        maps = zip(*(parts_of(context, part) for part in features), strict=True)
        with torch.inference_mode():
            joined = tuple(torch.cat([_tensor_of(part) for part in one]) for one in maps)
        return joined if context.maps else joined[0]

    def maps_of_patches(
        self, context: Context, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> Maps:
        """Maps (N, C, h, w) of raw patches (N, bands, P, P), by name, on the host."""
        assert isinstance(self._network, SharingNetwork), "no other gathers them"
        with torch.inference_mode():
            found = self._network.maps_of_patches(
                self._tensor(on_host(patch)), self._named(features), self._places(positions)
            )
        return {name: one.float().cpu().numpy() for name, one in found.items()}

    def encode_gathered(self, context: Context, window: Windows, gathered: Maps) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S), with maps of the patches in them."""
        assert isinstance(self._network, SharingNetwork), "no other takes them"
        maps = {name: self._tensor(one).to(self._dtype) for name, one in gathered.items()}
        with torch.inference_mode():
            found = self._network.encode_maps(context.name, self._tensor(on_host(window)), maps)
        return found if context.maps else found[0]

    def encode_once(self, context: Context, window: Windows) -> Tensor:
        """Features (1, C, H, W) of a raw window (1, bands, S, S) of the context's lattice."""
        with torch.inference_mode():
            return self._network.encode_once(context.name, self._tensor(on_host(window)))

    def gather(self, context: Context, cuts: Sequence[Cut]) -> Tensor:
        """Features (N, C, H, W) of a context, from the cells that each patch needs."""
        with torch.inference_mode():
            return torch.cat([gathered(cut) for cut in cuts])

    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Tensor:
        """Logits (N, classes, P, P) of raw patches (N, bands, P, P); on a GPU they are still on their way."""
        with torch.inference_mode():
            return self._network.segment(self._tensor(on_host(patch)), self._named(features), self._places(positions))

    def on_host(self, scores: Scores) -> NDArray[np.float32]:
        """Scores as an array (N, classes, P, P); waits for them."""
        array: NDArray[np.float32] = _tensor_of(scores).float().cpu().numpy()
        return array

    def close(self) -> None:
        """Release the module and the GPU's memory that it held."""
        vars(self).pop("_network", None)
        self._black.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _named(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """Features as a module takes them: several maps of a context by its name and theirs."""
        maps = {context.name: context.maps for context in self.manifest.contexts}
        found: dict[str, Tensor] = {}
        for name, value in features.items():
            if isinstance(value, tuple):
                parts = zip(maps[name], value, strict=True)
                found |= {f"{name}_{one}": _tensor_of(part) for one, part in parts}
            else:
                found[name] = _tensor_of(value)
        return found

    def _places(self, positions: Mapping[str, Positions]) -> dict[str, Tensor]:
        return {name: self._tensor(place).to(self._dtype) for name, place in positions.items()}

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def gathered(cut: Cut) -> Tensor:
    """Features that patches need of a context which is encoded once a raster, interpolated between cells.

    Args:
        cut: Where they lie. In training, its windows hold features (N, C, h, w) of N patches that lie alike on their
            lattices.

    Returns:
        Features (1, C, H, W), or (N, C, H, W).
    """
    strips = [
        torch.cat([_tensor_of(window)[:, :, row.cells, column.cells] for window, row, column in parts], dim=3)
        for parts in cut.parts
    ]
    cells = torch.cat(strips, dim=2)
    if cut.rows.beyond:
        cells = torch.lerp(cells[:, :, :-1], cells[:, :, 1:], float(cut.rows.beyond))
    if cut.columns.beyond:
        cells = torch.lerp(cells[..., :-1], cells[..., 1:], float(cut.columns.beyond))
    return cells


def _tensor_of(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
