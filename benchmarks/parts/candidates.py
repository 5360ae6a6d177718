"""Which engines could run a bundle, and loading them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from fctl.runtime.bundle.store import Bundle
from fctl.runtime.cuda import driver
from fctl.runtime.engines.base import RunPrecision, graphs_for
from fctl.runtime.engines.choose import BACKENDS, choose_engine
from fctl.runtime.engines.tensorrt.builder import build_plans
from fctl.runtime.engines.tensorrt.flavours import Flavour, missing_flavour
from fctl.runtime.engines.tensorrt.plans import BuildOptions, cache_folder
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.network import Network
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.resampling import Pixels

from . import pytorch
from .findings import Built, Findings, say
from .networks import ids_of

PYTORCH = (pytorch.EAGER, pytorch.COMPILED)
CHOICES = (*PYTORCH, *(name for name in BACKENDS if name != "auto"))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle to check. checkpoint: its weights for PyTorch; None: random ones, of which only the speed counts.
    random: whether the bundle's own weights are random."""

    name: str
    bundle: Bundle
    checkpoint: Path | None
    random: bool = False

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Those that it runs in."""
        fixed = self.bundle.manifest.fixed_batch
        return (fixed,) if fixed else tuple(sorted(set(wanted)))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a bundle. backend: of fctl's, or of `PYTORCH`."""

    backend: str
    precision: RunPrecision

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.backend} {self.precision}"

    @property
    def foreign(self) -> bool:
        """Whether it is there for comparison only."""
        return self.backend in PYTORCH

    def load(self, subject: Subject, batch: int) -> Network[Any, Any]:
        """The network in it. Raises EngineError, or what PyTorch raises."""
        if self.foreign:
            if importlib.util.find_spec("torch") is None:
                raise EngineError("torch is not installed")
            return pytorch.load(subject.bundle, subject.checkpoint, self.backend, self.precision, batch)
        engine = choose_engine(self.backend, self.precision, subject.bundle, batch=batch)
        try:
            return load_network(subject.bundle, engine, batch)
        except BaseException:
            engine.close()
            raise

    @contextmanager
    def segmenting(self, subject: Subject, batch: int) -> Iterator[tuple[Callable[[Pixels], Any], Segmenter | None]]:
        """What makes masks of images; and the `Segmenter` that does it, None where it is PyTorch."""
        if self.foreign:
            network = self.load(subject, batch)
            try:
                yield lambda image: ids_of(network, image), None
            finally:
                network.close()
            return
        with Segmenter(subject.bundle, backend=self.backend, precision=self.precision, batch=batch) as segmenter:
            yield lambda image: segmenter.segment(image).ids, segmenter


def candidates(bundle: Bundle, backends: Sequence[str]) -> list[Candidate]:
    """All that may be able to run a bundle's graphs: PyTorch first, then as `--backend` lists them."""
    held = bundle.manifest.precisions
    ways: list[tuple[str, str]] = [(kind, precision) for kind in PYTORCH for precision in ("fp32", "fp16")]
    for backend in BACKENDS[1:]:
        ways += [(backend, precision) for precision in ("fp32", "fp16", "int8") if precision in held]
        if backend == "openvino" and "fp32" in held:
            ways.append((backend, "bf16"))
    return [Candidate(backend=b, precision=cast(RunPrecision, p)) for b, p in ways if b in backends]


def build(findings: Findings, subject: Subject, candidate: Candidate, batches: Sequence[int]) -> bool:
    """Build the TensorRT engines that are missing, all batches in one; False where that failed, which is noted."""
    if (
        candidate.backend not in get_args(Flavour)
        or missing_flavour(cast(Flavour, candidate.backend))
        or driver.missing()
    ):
        return True  # nothing to build: loading it says why
    try:
        for batch in batches:
            choose_engine(candidate.backend, candidate.precision, subject.bundle, batch=batch).close()
    except EngineError:
        say(f"building {subject.name}, {candidate.label}: this takes minutes, once")
    else:
        return True
    options = BuildOptions(flavour=cast(Flavour, candidate.backend), batches=tuple(batches))
    plans = findings.loading(
        subject.name,
        candidate.label,
        lambda: build_plans(subject.bundle, graphs_for(candidate.precision), options, cache_folder()),
    )
    for plan in plans or ():
        record = plan.record
        findings.built.append(
            Built(
                bundle=subject.name, engine=candidate.label, graph=record.role, batches=record.profiles,
                seconds=record.seconds, bytes=plan.path.stat().st_size,
                layers=record.layers.summary if record.layers else None,
            )
        )  # fmt: skip
    return plans is not None
