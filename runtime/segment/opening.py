"""The network of a bundle, in the engine that was asked for."""

from __future__ import annotations

from typing import Any

from ..bundle.store import Bundle
from ..engines.base import Engine, GpuEngine, RunPrecision
from ..engines.choose import choose_engine
from ..errors import DeviceMemoryError
from .host import HostNetwork
from .network import Network, log


def load_network(bundle: Bundle, engine: Engine, batch: int) -> Network[Any, Any]:
    """The network where its engine works. Raises EngineError; DeviceMemoryError where the batch is too large."""
    if isinstance(engine, GpuEngine):
        from .gpu.network import DeviceNetwork

        return DeviceNetwork(bundle, engine, batch)
    return HostNetwork(bundle, engine, batch)


def open_network(bundle: Bundle, backend: str, precision: RunPrecision, batch: int, build: bool) -> Network[Any, Any]:
    """The network in the engine asked for; where a GPU's memory is too small for a batch, in a smaller one.

    Raises EngineError.
    """
    batch = bundle.manifest.fixed_batch or batch
    while True:
        engine = choose_engine(backend, precision, bundle, batch=batch, build=build)
        backend = engine.name  # a smaller batch is for the same one
        try:
            return load_network(bundle, engine, batch)
        except DeviceMemoryError as error:
            engine.close()
            if batch == 1 or bundle.manifest.fixed_batch:
                raise
            log.warning("warning: out of memory at batch %d, trying %d: %s", batch, batch // 2, error)
            batch //= 2
        except BaseException:
            engine.close()
            raise
