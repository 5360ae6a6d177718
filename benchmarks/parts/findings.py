"""What a check found, as records; and the collector that keeps a run going whatever a backend says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fctl.runtime.errors import DeviceMemoryError, FctlError

from .machine import Machine

T = TypeVar("T")

_PREFIX = re.compile(r"no engine for \w+: ")  # of `choose_engine`, which was asked for one engine


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What did not run, and the reason in the words of who refused. part: of the check, "" for all that it had left."""

    bundle: str
    what: str
    part: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine that was built here. layers: how many of its products are in each data type, where that is known."""

    bundle: str
    engine: str
    graph: str
    batches: tuple[int, ...]
    seconds: float
    bytes: int
    layers: str | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One engine against ONNX Runtime on the CPU in fp32.

    error: max |difference| / max |score| on real patches, None where it is not a number; pixels: share of the same
    class there; mask: share of the same class in a whole image. device: share of pixels on which `segment_device`
    equals `segment`, and producer whose array it took; None where the engine is not on a GPU.
    """

    bundle: str
    engine: str
    device_name: str
    patches: int
    error: float | None
    pixels: float
    mask: float
    device: float | None
    producer: str | None
    limit_error: float
    limit_pixels: float
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Patches a second, batch after batch without waiting; latency in milliseconds of one batch, host array to host
    scores. memory: bytes by which loading and warming up grew the host's and the GPU's."""

    bundle: str
    engine: str
    device: str
    batch: int
    patches: float
    lowest: float
    highest: float
    ratio: float
    baseline: str
    p50: float
    p90: float
    p99: float
    samples: int
    host_memory: int | None
    gpu_memory: int | None


@dataclass(frozen=True, kw_only=True)
class ImageSpeed:
    """Images a second of `Segmenter.segment`, from array to mask, or of `segment_device` where the engine says so."""

    bundle: str
    engine: str
    side: int
    tiles: int
    batch: int
    images: float
    lowest: float
    highest: float
    ratio: float
    baseline: str


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Bytes in use: when the soak was warm, at its end, and the slope of a line through all samples between."""

    warm: int
    end: int
    slope_per_hour: float
    limit: int


@dataclass(frozen=True, kw_only=True)
class Soak:
    """images: segmented by all threads. wrong: masks that were not the first one of the same image."""

    bundle: str
    engine: str
    minutes: float
    threads: int
    images: int
    wrong: int
    samples: int
    host: Growth | None
    gpu: Growth | None


@dataclass(kw_only=True)
class Findings:
    """Everything that was found so far."""

    date: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    headline: str = ""
    problems: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    built: list[Built] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    speed: list[Speed] = field(default_factory=list)
    images: list[ImageSpeed] = field(default_factory=list)
    soak: list[Soak] = field(default_factory=list)
    peak_host_memory: int | None = None

    def skip(self, bundle: str, what: str, reason: str, part: str = "") -> None:
        """Remember what did not run; the same reason is said once, not in every part."""
        reason = _PREFIX.sub("", " ".join(reason.split()))
        if not any((bundle, what, reason) == (known.bundle, known.what, known.reason) for known in self.skipped):
            self.skipped.append(Skipped(bundle=bundle, what=what, part=part, reason=reason))
            say(f"skipped {bundle}, {what}{part and ', '}{part}: {reason}")

    def problem(self, text: str) -> None:
        """Remember what makes the check fail."""
        self.problems.append(" ".join(text.split()))
        say(f"problem: {self.problems[-1]}")

    def loading(
        self, bundle: str, what: str, action: Callable[[], T], *, part: str = "", foreign: bool = False
    ) -> T | None:
        """What an action gives; None where it was refused, which is noted. foreign: not ours to mend."""
        try:
            return action()
        except FctlError as error:
            self.skip(bundle, what, str(error), part)
        except Exception as error:  # whatever a library raises: the run goes on
            self._failed(bundle, what, error, part, foreign)
        return None

    def running(
        self, bundle: str, what: str, action: Callable[[], T], *, part: str = "", foreign: bool = False
    ) -> T | None:
        """Likewise of an engine that was loaded: whatever it says now but that memory is short is a problem."""
        try:
            return action()
        except DeviceMemoryError as error:
            self.skip(bundle, what, str(error), part)
        except Exception as error:  # likewise
            self._failed(bundle, what, error, part, foreign)
        return None

    def _failed(self, bundle: str, what: str, error: Exception, part: str, foreign: bool) -> None:
        lines = str(error).strip().splitlines()
        told = lines[0] if lines else "it does not say why"
        reason = told if isinstance(error, FctlError) else f"{type(error).__name__}: {told}"
        if foreign:
            self.skip(bundle, what, reason, part)
        else:
            self.problem(f"{bundle}, {what}{part and ', '}{part}: {reason}")


def say(text: str) -> None:
    """Tell who watches."""
    print(text, file=sys.stderr, flush=True)
