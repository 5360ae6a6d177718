"""A comparison as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .results import FOREGROUND, PERCENTILES, STAGES, CaseResult, Comparison, Spread, labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        title: The line above it.
        header: Names of the columns.
        rows: The cells, row by row.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(comparison: Comparison) -> Iterator[Table]:
    """The tables of a comparison: speed, stages, and the latency of frames where that was measured."""
    results = comparison.results
    common, labels = labelled(results)
    where = ", ".join(filter(None, (comparison.image, common)))
    yield Table(
        title=f"Speed: {where}; {_rounds(len(results[0].rounds))}",
        header=(
            "case", "seconds", "ratio", "MPix/s", "patches/s", "engine", "CPU ms/MPix outside the engine", "peak MB"
        ),
        rows=tuple((label, *_speed(result, results[0])) for label, result in zip(labels, results, strict=True)),
    )  # fmt: skip
    beside = tuple(stage for stage in STAGES if any(stage in result.stages(background=True) for result in results))
    shown = tuple(
        stage for stage in dict.fromkeys((*FOREGROUND, *STAGES)) if any(stage in result.stages() for result in results)
    )
    yield Table(
        title="Seconds by stage: those of the foreground add up to the seconds above; stages with a + run beside it",
        header=("case", *shown, *(f"+{stage}" for stage in beside)),
        rows=tuple(
            (
                label,
                *(_seconds(result.stages().get(stage)) for stage in shown),
                *(_seconds(result.stages(background=True).get(stage)) for stage in beside),
            )
            for label, result in zip(labels, results, strict=True)
        ),
    )
    if comparison.frame:
        yield Table(
            title=f"Latency: frames of {comparison.frame} x {comparison.frame} pixels, in milliseconds",
            header=("case", "frames", *(f"p{percentile}" for percentile in PERCENTILES)),
            rows=tuple(
                (label, str(len(result.frames)), *(f"{1e3 * s:.1f}" for s in result.latency().values()))
                for label, result in zip(labels, results, strict=True)
            ),
        )


def _speed(result: CaseResult, first: CaseResult) -> tuple[str, ...]:
    seconds, outside = result.seconds, result.outside
    return (
        f"{seconds.median:.2f} ({seconds.lowest:.2f} - {seconds.highest:.2f})",
        f"{seconds.median / first.seconds.median:.2f}",
        f"{result.megapixels.median:.2f}",
        f"{result.patches.median:.1f}",
        f"{result.engine_share.median:.0%}",
        "-" if outside is None else f"{outside.median:.0f}",
        "-" if result.peak is None else f"{result.peak / 1e6:.0f}",
    )


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"medians of {count} rounds (lowest - highest)"


def _seconds(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f}"
