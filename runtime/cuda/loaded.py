"""The module that kernels.cu was compiled to, loaded into one device."""

from __future__ import annotations

from pathlib import Path

from .driver import Device
from .provider import Argument
from .resources import Stream

PTX = Path(__file__).with_name("kernels.ptx")

_MOST_PLANES = 65535  # along a grid's z: the kernels go on in steps of it
_BLOCK = (32, 8, 1)


class LoadedKernels:
    """The kernels, loaded into one device, and how they are launched.

    Raises:
        EngineError: The driver cannot compile them.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kernels = device.kernels(PTX.read_bytes())

    def close(self) -> None:
        """Free everything; the streams must be idle."""
        self._kernels.free()

    def _launch(self, stream: Stream, name: str, extent: tuple[int, int, int], *arguments: Argument) -> None:
        """Enqueue a kernel over so many rows, columns and planes."""
        rows, columns, planes = extent
        grid = (-(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]), min(planes, _MOST_PLANES))
        stream.launch(self._kernels[name], grid, _BLOCK, arguments)

    def _launch_along(self, stream: Stream, name: str, count: int, *arguments: Argument) -> None:
        """Enqueue a kernel over so many values."""
        block = _BLOCK[0] * _BLOCK[1]
        grid = (min(-(-count // block), 1 << 20), 1, 1)
        stream.launch(self._kernels[name], grid, (block, 1, 1), arguments)
