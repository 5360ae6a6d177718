"""Part (d): the findings as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.records import encode

from .agreement import REFERENCE
from .findings import Findings
from .machine import MB
from .records import Growth, ImageSpeed, Soak, Speed

SCHEMA = "1.0"


def write(findings: Findings, folder: Path) -> None:
    """Write report.md and report.json, as far as the run has come.

    Args:
        findings: What was found so far.
        folder: The folder of both files.

    Raises:
        OutputError: A file cannot be written.
    """
    document = {"schema": SCHEMA, "passed": not findings.problems} | encode(findings)
    for name, text in (
        ("report.json", json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
        ("report.md", markdown(findings)),
    ):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def markdown(findings: Findings) -> str:
    """The report as Markdown."""
    busy = "**Others used this machine at the same time: its CPU figures and ratios to them mean little.**"
    parts = ["# GPU check", findings.headline, _verdict(findings), busy if findings.machine.busy else ""]
    parts.append(_machine(findings))
    parts += [_agreement(findings), _speed(findings), _images(findings), _soak(findings), _built(findings)]
    parts.append(_skipped(findings))
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(findings: Findings) -> str:
    if findings.problems:
        return "**Failed**:\n\n" + "\n".join(f"- {problem}" for problem in findings.problems)
    agreed = sum(not row.engine.startswith("pytorch") and row.engine != REFERENCE for row in findings.agreement)
    judged = any(row.host or row.gpu for row in findings.soak)
    soaked = "memory did not grow in the soak" if judged else "no soak was long enough to judge, or none was asked for"
    return (
        f"**Passed**: engines that agree: {agreed}; {soaked}."
        if agreed
        else "**Nothing was compared**: see what was skipped."
    )


def _machine(findings: Findings) -> str:
    machine, gpu = findings.machine, findings.machine.gpu
    rows = [("date", findings.date), ("command", f"`{findings.command}`"), ("commit", findings.commit or "unknown")]
    if gpu:
        rows.append(("GPU", f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory / MB:.0f} MB"))
        rows.append(("driver", f"{gpu.driver} (through {gpu.provider})"))
    else:
        rows.append(("GPU", f"none: {machine.no_gpu}"))
    memory = f", {machine.memory / MB:.0f} MB" if machine.memory else ""
    if machine.load is not None:
        memory += f"; load {machine.load:g} at the start"
    rows += [("CPU", f"{machine.cpu}, {machine.cores} cores{memory}"), ("system", machine.system)]
    rows.append(("versions", ", ".join(f"{name} {found}" for name, found in findings.versions.items())))
    if findings.peak_host_memory:
        rows.append(("peak host memory of the whole run", f"{findings.peak_host_memory / MB:.0f} MB"))
    return _table(("", ""), rows)


def _agreement(findings: Findings) -> str:
    rows = [
        (
            row.bundle, row.engine, row.device_name, "not a number" if row.error is None else f"{row.error:.1e}",
            _share(row.pixels), _share(row.mask),
            "" if row.device is None else f"{_share(row.device)} ({row.producer})",
            f"{row.limit_error:g}, {row.limit_pixels:.2%}", "yes" if row.agrees else "**no**",
        )
        for row in findings.agreement
    ]  # fmt: skip
    header = (
        "bundle", "engine", "device", "max error", "same class, patches", "same class, image",
        "segment_device = segment", "limits", "agrees",
    )  # fmt: skip
    patches = findings.agreement[0].patches if findings.agreement else 0
    note = (
        f"Against ONNX Runtime on the CPU in fp32, {patches} real patches; max |difference| / max |score|, and the "
        "share of pixels with the same class. PyTorch's rows do not count; that of onnxruntime fp32 is the reference "
        "itself, in another batch size. Limits of 0.5 and 90 % stand where the parity gate has none or the weights are "
        "random: they only tell a coarse precision from a broken engine."
    )
    return _section("Agreement", note, header, rows)


def _speed(findings: Findings) -> str:
    rows = [
        (
            row.bundle, row.engine, row.device, str(row.batch), f"{row.patches:.1f}",
            f"{row.lowest:.1f} - {row.highest:.1f}", f"{row.ratio:.2f}", f"{row.p50:.2f}", f"{row.p90:.2f}",
            f"{row.p99:.2f}", str(row.samples), _megabytes(row.gpu_memory), _megabytes(row.host_memory),
        )
        for row in findings.speed
    ]  # fmt: skip
    header = (
        "bundle", "engine", "device", "batch", "patches/s", "lowest - highest", _ratio(findings.speed), "p50, ms",
        "p90, ms", "p99, ms", "samples", "GPU, MB", "host, MB",
    )  # fmt: skip
    note = (
        "A patch is counted with all of its contexts encoded. Patches/s: batch after batch, without waiting between "
        "them; medians of rounds in which the engines take turns. Latency: one batch, from arrays on the host to "
        "scores on the host. Memory: what loading and warming up took (on the GPU, in use by everybody)."
    )
    return _section("Patches", note, header, rows)


def _images(findings: Findings) -> str:
    rows = [
        (
            row.bundle, row.engine, f"{row.side} x {row.side}", str(row.tiles), str(row.batch), f"{row.images:.3f}",
            f"{row.lowest:.3f} - {row.highest:.3f}", f"{row.images * row.tiles:.1f}", f"{row.ratio:.2f}",
        )
        for row in findings.images
    ]  # fmt: skip
    header = (
        "bundle", "engine", "image", "tiles", "batch", "images/s", "lowest - highest", "tiles/s",
        _ratio(findings.images),
    )  # fmt: skip
    note = "`Segmenter.segment`, from array to mask: cutting, resampling, inference, merging."
    return _section("Whole images", note, header, rows)


def _soak(findings: Findings) -> str:
    rows = [
        (
            row.bundle, row.engine, f"{row.minutes:g}", str(row.threads), str(row.images), str(row.wrong),
            *_grown(row, row.host), *_grown(row, row.gpu),
        )
        for row in findings.soak
    ]  # fmt: skip
    header = (
        "bundle", "engine", "minutes", "threads", "images", "wrong masks", "host, MB", "host, MB an hour", "GPU, MB",
        "GPU, MB an hour",
    )  # fmt: skip
    note = (
        "Threads share one Segmenter. Growth from the end of the warm-up (a quarter of the time) to the end, its "
        "limit, and the slope of a line through all samples."
    )
    return _section("Soak", note, header, rows)


def _built(findings: Findings) -> str:
    rows = [
        (
            row.bundle, row.engine, row.graph, " and ".join(map(str, row.batches)), f"{row.seconds:.1f}",
            f"{row.bytes / MB:.1f}", row.layers or "",
        )
        for row in findings.built
    ]  # fmt: skip
    header = ("bundle", "engine", "graph", "batches", "seconds", "MB", "products by data type")
    return _section("Engines built", "", header, rows)


def _skipped(findings: Findings) -> str:
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for row in findings.skipped:
        grouped.setdefault((row.bundle, row.part, row.reason), []).append(row.what)
    rows = [(bundle, ", ".join(names), part, reason) for (bundle, part, reason), names in grouped.items()]
    return _section("Skipped", "", ("bundle", "what", "first in", "reason"), rows)


def _section(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    return "\n\n".join(part for part in (f"## {title}", note, _table(header, rows)) if part)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, *rows]
    cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return "\n".join([f"| {cells[0]} |", f"|{'---|' * len(header)}", *(f"| {line} |" for line in cells[1:])])


def _ratio(rows: Sequence[Speed | ImageSpeed]) -> str:
    """The heading of a column of ratios, which names the baseline."""
    bases = dict.fromkeys(row.baseline for row in rows)
    return f"ratio to {' or '.join(bases)}"


def _share(value: float) -> str:
    return "all" if value == 1 else f"{100 * value:.4f} %"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / MB:.0f}"


def _grown(row: Soak, growth: Growth | None) -> tuple[str, str]:
    if growth is None:
        return "", ""
    return (
        f"{growth.warm / MB:.0f}, {(growth.end - growth.warm) / MB:+.1f} (limit {growth.limit / MB:.0f})",
        f"{growth.slope_per_hour / MB:+.1f}",
    )
