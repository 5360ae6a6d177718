"""How a build is configured: options checked, and said in the library's own terms."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

from ...atomic import atomic_write
from ...bundle.manifest import GraphSpec
from ...errors import InputError, OutputError
from .api import Config, Module, PlanBuilder, Profile
from .plans import BuildOptions, Machine, cache_folder

log = logging.getLogger(__name__)

_TIMING_CACHE = "timing.cache"


def check_options(options: BuildOptions) -> None:
    """Check that the options fit each other.

    Args:
        options: How to build.

    Raises:
        InputError: They do not.
    """
    if options.flavour == "tensorrt" and options.compute_capability is not None:
        raise InputError(
            "tensorrt builds for the GPU of this machine",
            subject="`compute_capability`",
            remedy="leave it out, or use `flavour` tensorrt-rtx",
        )
    if options.flavour == "tensorrt-rtx" and (options.hardware_compatible or options.version_compatible):
        raise InputError(
            "`hardware_compatible` and `version_compatible` are for `flavour` tensorrt: plans of tensorrt-rtx run on "
            "every GPU of their compute capability",
            remedy="leave them out",
        )
    if not options.batches or min(options.batches) < 1:
        raise InputError(subject="`batch`", expected="numbers from 1 as in 1,4,8", found=options.batches)


def network_flags(trt: Module) -> int:
    """Strongly typed, which from TensorRT 11 on is the only kind; the flag's number differs between versions."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def configure(trt: Module, builder: PlanBuilder, options: BuildOptions) -> Config:
    """Say options in the library's own terms.

    Args:
        trt: The library.
        builder: What will build.
        options: How to build.

    Returns:
        A configuration without profiles.

    Raises:
        InputError: The library does not know the compute capability.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that layers can be listed afterwards
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is fp32: TF32 keeps 10 bits of 23
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimisation is not None:
        config.builder_optimization_level = options.optimisation
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, options), 0)
    return config


def profile_of(builder: PlanBuilder, graph: GraphSpec, batch: int) -> Profile:
    """A profile of one batch size, so that kernels are chosen for just that.

    Args:
        builder: What will build.
        graph: The graph.
        batch: The batch size.

    Returns:
        The profile, with the shapes of all inputs.
    """
    profile = builder.create_optimization_profile()
    for spec in graph.inputs:
        shape = tuple(batch if isinstance(side, str) else side for side in spec.shape)
        profile.set_shape(spec.name, shape, shape, shape)
    return profile


@contextlib.contextmanager
def timing_cache(config: Config, options: BuildOptions, machine: Machine) -> Iterator[None]:
    """Let a build use, and add to, the kernel timings of earlier builds on this GPU.

    TensorRT-RTX times nothing when it builds.

    Args:
        config: The configuration of the build.
        options: How to build.
        machine: What is built for.

    Yields:
        Nothing; the build belongs inside.
    """
    if options.flavour != "tensorrt":
        yield
        return
    device = re.sub(r"\W+", "_", machine.gpu or "")
    path = cache_folder() / f"{options.flavour}-{machine.version}-{device}-{_TIMING_CACHE}"
    kept = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if kept is None or not config.set_timing_cache(kept, ignore_mismatch=False):  # damaged, or another GPU's
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    yield
    cache = config.get_timing_cache()
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(cache.serialize() if cache else b"")
    except OutputError as error:  # a build of minutes is worth more
        log.debug("no timing cache: %s", error)


def _capability(trt: Module, options: BuildOptions) -> object:
    """The library's own object for a compute capability."""
    known = trt.ComputeCapability.__members__
    found = known.get(f"SM{options.compute_capability}")
    if found is None:
        names = ", ".join(name.removeprefix("SM") for name in known if name.startswith("SM"))
        raise InputError(
            f"{options.flavour} knows {names}, found {options.compute_capability}", subject="`compute_capability`"
        )
    return found
