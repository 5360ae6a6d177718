"""What all parts of a network on a GPU share: the device, its kernels, and three streams that work at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ...cuda.driver import Device, Stream
from ...cuda.kernels import KernelSet
from ...errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWork:
    """One GPU at work.

    Attributes:
        device: The GPU, in one context.
        feed: The stream that copies the next batch in.
        compute: The stream that runs the graphs and merges.
        drain: The stream that copies finished rows out.
        kernels: Our own kernels.
    """

    device: Device
    feed: Stream
    compute: Stream
    drain: Stream
    kernels: KernelSet

    @classmethod
    def on(cls, device: Device) -> GpuWork:
        """Make streams on a device and load the kernels."""
        with device.active():
            feed, compute, drain = device.stream(), device.stream(), device.stream()
            return cls(device=device, feed=feed, compute=compute, drain=drain, kernels=KernelSet(device))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device's context current in this thread."""
        with self.device.active():
            yield

    def finish(self) -> None:
        """Wait for all streams; work that failed has been reported by then."""
        for stream in (self.feed, self.compute, self.drain):
            with suppress(EngineError):
                stream.synchronize()
