"""The machine that plans are built for or run on."""

from __future__ import annotations

import contextlib
import platform

from ...cuda import driver
from ...errors import EngineError
from .flavours import Flavour, load_flavour
from .plans import BuildOptions, Machine


def machine_for(options: BuildOptions) -> Machine:
    """The machine that plans are built for.

    The driver is asked before TensorRT, which can crash without one.

    Args:
        options: How to build.

    Returns:
        This machine, or any with a GPU of the compute capability that is asked for.

    Raises:
        EngineError: The library or this machine's GPU is missing; the error names what is.
    """
    trt = load_flavour(options.flavour)
    if options.compute_capability is not None:
        return Machine(
            version=trt.__version__, system=_system(), gpu=None, compute_capability=options.compute_capability,
            driver=None,
        )  # fmt: skip
    if reason := driver.missing():
        raise EngineError(
            reason,
            subject=f"{options.flavour} builds for the GPU of this machine",
            remedy="`compute_capability` builds for GPUs elsewhere" if options.flavour == "tensorrt-rtx" else None,
        )
    with contextlib.closing(driver.open_device()) as device:
        return machine_of(options.flavour, device)


def machine_of(flavour: Flavour, device: driver.Device) -> Machine:
    """What plans must fit to run on an open device.

    Args:
        flavour: The library that runs them.
        device: The GPU.

    Returns:
        This machine with that GPU.

    Raises:
        EngineError: The library is missing.
    """
    major, minor = device.compute_capability
    version = load_flavour(flavour).__version__
    name = f"{device.name}, {device.multiprocessors} SMs"  # all Jetsons of a generation have one name
    return Machine(
        version=version, system=_system(), gpu=name, compute_capability=10 * major + minor, driver=device.driver
    )


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"
