"""What a bundle knows of engines: how each did at the parity gate, and a patch to try others on."""

from __future__ import annotations

from dataclasses import dataclass

from .. import choices

_LEAST_AGREEMENT = 0.985
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
class SharedVerdict:
    """How contexts that are encoded once a raster compared with those that are encoded for each patch.

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
    def passed(self) -> bool:
        """Whether "auto" encodes contexts once a raster."""
        return self.agreement >= _LEAST_AGREEMENT or (self.lost is not None and self.lost <= _MOST_LOST)
