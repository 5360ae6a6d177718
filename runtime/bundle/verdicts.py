"""What a bundle knows of engines: how each did at the parity gate, and a patch to try others on."""

from __future__ import annotations

from dataclasses import dataclass

from .. import choices

_LEAST_SHARED, _LEAST_BF16 = 0.985, 0.99  # share of the pixels that keep their class
_MOST_LOST = 0.2  # points of mIoU


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVerdict:
    """How one engine did at the parity gate.

    Attributes:
        engine: Its name, as `backend` takes it.
        version: The version of its library.
        precision: Precision of the graphs that it ran.
        passed: Whether it computes what the network computes; "auto" never takes one that does not.
        agreement: Proportion of the pixels with the network's class, from 0 to 1, and where it did not pass with its
            scores too; None where it did not run.
        max_error: max |difference| / max |logit|; None where it did not run, or gave no finite scores.
        refusal: Why it did not run, in words; None where it did.
    """

    engine: str
    version: str
    precision: choices.Precision
    passed: bool
    agreement: float | None
    max_error: float | None
    refusal: str | None

    @property
    def reason(self) -> str:
        """Why it did not pass, in words."""
        if self.refusal is not None:
            return f"it cannot run this bundle ({self.refusal})"
        return f"at the parity gate only {self.agreement or 0:.2%} of its pixels had the network's class and scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """A small patch with the network's scores, on which engines are tried that the gate did not see.

    Attributes:
        file: The file, relative to the bundle's folder.
        sha256: Hex digest of the file.
    """

    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How one way to run a bundle compared with the exact one.

    Attributes:
        agreement: Share of the pixels with the same class, from 0 to 1.
        lost: Points of mIoU that were lost, negative where some were gained; None where there were no labels.
        pixels: How many pixels were compared.
        source: The images.
        engine: What ran both.
    """

    agreement: float
    lost: float | None
    pixels: int
    source: str
    engine: str

    @property
    def in_words(self) -> str:
        """The figures."""
        lost = "" if self.lost is None else f", {self.lost:.2f} points of mIoU lost"
        return f"{self.agreement:.2%} of {self.pixels} pixels keep their class{lost} ({self.source})"

    def _keeps(self, least: float) -> bool:
        """Whether enough pixels keep their class, or little enough mIoU is lost."""
        return self.agreement >= least or (self.lost is not None and self.lost <= _MOST_LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedVerdict(Compared):
    """How contexts that are encoded once a raster compared with those that are encoded for each patch."""

    @property
    def passed(self) -> bool:
        """Whether "auto" encodes contexts once a raster."""
        return self._keeps(_LEAST_SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bf16Verdict(Compared):
    """How the fp32 graphs, computed in bf16, compared with fp32."""

    @property
    def passed(self) -> bool:
        """Whether "auto" may compute in bf16."""
        return self._keeps(_LEAST_BF16)
