"""Which engines may run a bundle, and loading the bundle into them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.cuda import driver
from fctl.runtime.engines.base import RunPrecision, graphs_for
from fctl.runtime.engines.choose import BACKENDS, choose_engine
from fctl.runtime.engines.tensorrt.builder import build_plans
from fctl.runtime.engines.tensorrt.flavours import Flavour, missing_flavour
from fctl.runtime.engines.tensorrt.plans import BuildOptions, StoredPlan, cache_folder
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.resampling import Pixels

from . import pytorch
from .findings import Findings, announce
from .networks import Loaded, load_engine, mask_of
from .records import Built

PYTORCH = (pytorch.EAGER, pytorch.COMPILED)
CHOICES = (*PYTORCH, *(name for name in BACKENDS if name != "auto"))

_GRAPHS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

Segment: TypeAlias = Callable[[Pixels], NDArray[np.uint8]]
"""Makes class ids (height, width) of an image (height, width, bands)."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle to check.

    Attributes:
        name: The bundle's name in the report.
        bundle: The bundle.
        checkpoint: Its weights for PyTorch; None for random ones, of which only the speed counts.
        random: Whether the bundle's own weights are random.
    """

    name: str
    bundle: Bundle
    checkpoint: Path | None
    random: bool = False

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """The batch sizes to run in, ascending: those that are wanted, unless the bundle fixes one."""
        fixed = self.bundle.manifest.fixed_batch
        return (fixed,) if fixed else tuple(sorted(set(wanted)))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a bundle.

    Attributes:
        backend: One of fctl's engines, or of `PYTORCH`.
        precision: In what precision it runs.
    """

    backend: str
    precision: RunPrecision

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.backend} {self.precision}"

    @property
    def foreign(self) -> bool:
        """Whether it takes part for comparison only."""
        return self.backend in PYTORCH

    def load(self, subject: Subject, batch: int) -> Loaded:
        """Load a bundle.

        Args:
            subject: The bundle.
            batch: Patches at once.

        Returns:
            The network.

        Raises:
            EngineError: The engine is missing, or refuses the bundle. PyTorch may raise its own exceptions.
        """
        if self.foreign:
            if importlib.util.find_spec("torch") is None:
                raise EngineError("torch is not installed")
            return pytorch.load(subject.bundle, subject.checkpoint, self.backend, self.precision, batch)
        network = load_engine(subject.bundle, self.backend, self.precision, batch)
        return Loaded(network=network, device=network.engine.device)

    @contextmanager
    def segmenting(self, subject: Subject, batch: int) -> Iterator[tuple[Segment, Segmenter | None]]:
        """Load a bundle for images of any size.

        Args:
            subject: The bundle.
            batch: Patches at once.

        Yields:
            What makes masks of images; and the `Segmenter` that does it, or None where it is PyTorch.
        """
        if self.foreign:
            network = self.load(subject, batch).network
            try:
                yield lambda image: mask_of(network, image), None
            finally:
                network.close()
            return
        with Segmenter(
            subject.bundle, backend=self.backend, precision=self.precision, batch=batch, contexts="exact"
        ) as segmenter:
            yield lambda image: segmenter.segment(image).ids, segmenter


def candidates_for(bundle: Bundle, backends: Sequence[str]) -> list[Candidate]:
    """All that may be able to run a bundle's graphs.

    Args:
        bundle: The bundle.
        backends: Some of `CHOICES`.

    Returns:
        PyTorch first, then the engines in the order of `BACKENDS`.
    """
    held = bundle.manifest.precisions
    pairs: list[tuple[str, RunPrecision]] = [(kind, name) for kind in PYTORCH for name in pytorch.PRECISIONS]
    for backend in BACKENDS[1:]:
        pairs += [(backend, precision) for precision in _GRAPHS if precision in held]
        if backend == "openvino" and "fp32" in held:
            pairs.append((backend, "bf16"))
    return [Candidate(backend=backend, precision=name) for backend, name in pairs if backend in backends]


def build(findings: Findings, subject: Subject, candidate: Candidate, batches: Sequence[int]) -> bool:
    """Build the TensorRT engines that a candidate lacks, for all batch sizes at once.

    Args:
        findings: Where engines that were built, and failures, are noted.
        subject: The bundle.
        candidate: The candidate; where nothing can be built for it, loading it tells why.
        batches: The batch sizes.

    Returns:
        False where building failed.
    """
    flavour = next((name for name in _FLAVOURS if name == candidate.backend), None)
    if flavour is None or missing_flavour(flavour) or driver.missing():
        return True
    try:
        for batch in batches:
            choose_engine(flavour, candidate.precision, subject.bundle, batch=batch).close()
    except EngineError:
        announce(f"building {subject.name}, {candidate.label}: this takes minutes, once")
    else:
        return True
    options = BuildOptions(flavour=flavour, batches=tuple(batches))
    plans = findings.loading(
        subject.name,
        candidate.label,
        lambda: build_plans(subject.bundle, graphs_for(candidate.precision), options, cache_folder()),
    )
    findings.built += [_built(subject, candidate, plan) for plan in plans or ()]
    return plans is not None


def _built(subject: Subject, candidate: Candidate, plan: StoredPlan) -> Built:
    """The report's row of an engine that was built."""
    record = plan.record
    return Built(
        bundle=subject.name, engine=candidate.label, graph=record.role, batches=record.profiles,
        seconds=record.seconds, bytes=plan.path.stat().st_size,
        layers=record.layers.summary if record.layers else None,
    )  # fmt: skip
