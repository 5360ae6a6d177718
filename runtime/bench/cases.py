"""What is compared: every combination of bundle, engine, precision, way of encoding contexts, and batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..choices import BatchChoice, ContextEncoding, PrecisionChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to segment images, as it is asked for.

    Attributes:
        bundle: The bundle, as a command line takes it.
        backend: The engine's name, or "auto".
        precision: In what precision to run.
        contexts: How contexts are encoded.
        batch: Patches at once.
        build_engines: Whether engines of TensorRT that are missing may be built.
    """

    bundle: str
    backend: str = "auto"
    precision: PrecisionChoice = "fp32"
    contexts: ContextEncoding = "auto"
    batch: BatchChoice = 4
    build_engines: bool = False

    @property
    def label(self) -> str:
        """The case in words."""
        return f"{self.bundle}, {self.backend} {self.precision}, {self.contexts} contexts, batch {self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A case that can run here, with all that was left to be chosen.

    Attributes:
        name: The bundle's name.
        engine: The engine that runs.
        version: The version of its library.
        device: Where it runs.
        precision: In what precision it runs.
        contexts: "exact" or "shared"; "none" where the bundle has none.
        batch: Patches at once.
        tile: Side of a patch in pixels.
        bands: Bands of the images that the bundle takes.
        dtype: Their dtype.
    """

    name: str
    engine: str
    version: str
    device: str
    precision: str
    contexts: str
    batch: int
    tile: int
    bands: int
    dtype: str

    @property
    def parts(self) -> tuple[str, ...]:
        """What can differ between cases, in words: bundle, engine and precision, contexts, batch."""
        contexts = "no contexts" if self.contexts == "none" else f"{self.contexts} contexts"
        return self.name, f"{self.engine} {self.precision}", contexts, f"batch {self.batch}"


def plan_cases(
    bundles: Sequence[str],
    *,
    backends: Sequence[str] = ("auto",),
    precisions: Sequence[PrecisionChoice] = ("fp32",),
    contexts: Sequence[ContextEncoding] = ("auto",),
    batches: Sequence[BatchChoice] = (4,),
    build_engines: bool = False,
) -> tuple[Case, ...]:
    """Plan a case for every combination.

    Args:
        bundles: Bundle folders, or "default".
        backends: Engines, by name; "auto" chooses one.
        precisions: In what precisions to run.
        contexts: How contexts are encoded.
        batches: Patches at once.
        build_engines: Whether engines of TensorRT that are missing may be built.

    Returns:
        The cases; whether they can run here is not known yet.
    """
    return tuple(
        Case(bundle=b, backend=e, precision=p, contexts=c, batch=n, build_engines=build_engines)
        for b, e, p, c, n in itertools.product(bundles, backends, precisions, contexts, batches)
    )
