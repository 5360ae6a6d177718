"""The records of which a report consists; their fields are those of report.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something that did not run.

    Attributes:
        bundle: The bundle's name; "-" where none is concerned.
        what: What did not run: an engine, an option or a step.
        part: The part of the check that was skipped, or "" for everything that was left to do with it.
        reason: The reason, in the words of the library or the engine that refused.
    """

    bundle: str
    what: str
    part: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine of TensorRT that was built during the check.

    Attributes:
        bundle: The bundle's name.
        engine: The candidate's label.
        graph: The graph's role.
        batches: The batch sizes that the engine runs in.
        seconds: How long building took.
        bytes: The engine's size on disk.
        layers: How many of its products are in each data type; None where that is not known.
    """

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

    Attributes:
        bundle: The bundle's name.
        engine: The candidate's label.
        device_name: The device that ran it.
        patches: How many real patches were compared.
        error: max |difference| / max |score| on them; None where that is not a number.
        pixels: Fraction of their pixels that have the same class.
        mask: Fraction of the pixels of one large image that have the same class.
        device: Fraction of pixels on which `segment_device` equals `segment`; None where the engine is not on a GPU.
        producer: The library whose array `segment_device` took, likewise.
        limit_error: The largest error that agrees.
        limit_pixels: The smallest fraction of the same class that agrees.
        agrees: Whether the engine kept to its limits.
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
    """How fast one engine runs patches at one batch size.

    Attributes:
        bundle: The bundle's name.
        engine: The candidate's label.
        device: The device that ran it.
        batch: Patches at once.
        patches: Patches a second, batch after batch without waiting for each; the median of all rounds.
        lowest: The same of the slowest round.
        highest: The same of the fastest round.
        ratio: `patches` over that of the baseline.
        baseline: The label of the engine that ratios are to.
        p50: Median latency of a batch in milliseconds, from arrays on the host to scores on the host.
        p90: Its 90th percentile.
        p99: Its 99th percentile.
        samples: How many latencies were measured.
        host_memory: Bytes by which loading and warming up grew this process; None where the system does not tell.
        gpu_memory: The same of the GPU's memory in use; None without a GPU.
    """

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
    """How fast one engine segments images of one size, from array to mask.

    Attributes:
        bundle: The bundle's name.
        engine: The candidate's label, followed by "segment_device" where that was timed instead of `segment`.
        side: Side of the square image in pixels.
        tiles: How many tiles the image has.
        batch: Patches at once.
        images: Images a second; the median of all rounds.
        lowest: The same of the slowest round.
        highest: The same of the fastest round.
        ratio: `images` over that of the baseline.
        baseline: The label of the engine that ratios are to.
    """

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
    """Memory in use during a soak.

    Attributes:
        warm: Bytes in use when the soak was warm.
        end: Bytes in use at its end.
        slope_per_hour: Slope of a line through all samples between, in bytes an hour.
        limit: By how many bytes the memory may grow.
    """

    warm: int
    end: int
    slope_per_hour: float
    limit: int


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What minutes of segmenting did to one engine.

    Attributes:
        bundle: The bundle's name.
        engine: The candidate's label.
        minutes: How long it took.
        threads: How many threads shared the `Segmenter`.
        images: How many images they segmented together.
        wrong: How many masks differed from the first one of the same image.
        samples: How many times memory was measured.
        host: Memory of this process; None where there were too few samples.
        gpu: Memory of the GPU; None also without one.
    """

    bundle: str
    engine: str
    minutes: float
    threads: int
    images: int
    wrong: int
    samples: int
    host: Growth | None
    gpu: Growth | None
