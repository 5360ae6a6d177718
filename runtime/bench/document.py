"""A comparison as a document for programs: what ``fctl-bench --json`` writes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version

from ..engines.processor import name as processor
from ..stopwatch import Stage, Taken
from .machine import cores, load
from .results import CaseResult, Comparison, Spread
from .work import Measured

SCHEMA = 1
"""Raised where a program that reads older documents would misread newer ones."""


def document(comparison: Comparison) -> dict[str, object]:
    """All that was measured, as JSON takes it: seconds, bytes and pixels; null where the system does not tell."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fctl": version("fctl"),
        "machine": {
            "processor": processor(), "cores": cores(), "load": load(), "system": platform.platform(),
            "python": platform.python_version(),
        },
        "image": comparison.image,
        "frame": comparison.frame,
        "cases": [_case(result) for result in comparison.results],
        "skipped": [{**asdict(one.case), "reason": str(one.error)} for one in comparison.skipped],
    }  # fmt: skip


def _case(result: CaseResult) -> dict[str, object]:
    return {
        "bundle": result.case.bundle,
        **asdict(result.opened),
        "seconds": asdict(result.seconds),
        "megapixels_per_second": asdict(result.megapixels),
        "patches_per_second": asdict(result.patches),
        "engine_share": asdict(result.engine_share),
        "outside_ms_per_megapixel": result.outside and asdict(result.outside),
        "peak_bytes": result.peak,
        "stages": _spreads(result.stages()),
        "background_stages": _spreads(result.stages(background=True)),
        "rounds": [_round(one) for one in result.rounds],
        "frame_seconds": list(result.frames),
        "frame_percentiles": {f"p{percentile}": seconds for percentile, seconds in result.latency().items()},
    }


def _round(one: Measured) -> dict[str, object]:
    return {
        "pixels": one.pixels, "patches": one.patches, "seconds": one.seconds, "processor_seconds": one.processor,
        "outside_processor_seconds": one.outside, "peak_bytes": one.peak, "stages": _taken(one.times.foreground),
        "background_stages": _taken(one.times.background),
    }  # fmt: skip


def _spreads(stages: Mapping[Stage, Spread]) -> dict[str, object]:
    return {stage: asdict(spread) for stage, spread in stages.items()}


def _taken(stages: Mapping[Stage, Taken]) -> dict[str, object]:
    return {stage: {"seconds": taken.clock, "processor_seconds": taken.processor} for stage, taken in stages.items()}
