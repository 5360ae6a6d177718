"""Verify and time every engine on this machine: python -m benchmarks.gpu_check, or make gpu-check.

The check uses what is installed, notes what it skipped and why, and writes report.md and report.json: agreement with
ONNX Runtime, speed, a soak, and the machine. Without a GPU, the CPU's engines take part alone. The exit status is 1 if
an engine disagrees or memory grows.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fctl.calib.sample import find_images, sample_patches, shipped_images
from fctl.runtime.errors import FctlError, InputError

from .parts.agreement import compare, expectation
from .parts.candidates import CHOICES, Candidate, Subject, build, candidates_for
from .parts.findings import Findings, announce
from .parts.image_speed import time_images
from .parts.machine import Memory, commit, describe, versions
from .parts.networks import mosaic
from .parts.plan import Plan
from .parts.pytorch import tf32
from .parts.report import write
from .parts.soak import soak
from .parts.speed import time_patches
from .parts.subjects import subjects

ROOT = Path(__file__).parents[1]
CHECKED_SIDE = 1000  # of the image whose masks are compared, at most


def main() -> int:
    """Run all parts, and write the report after each of them; the exit status."""
    arguments = _arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    memory = Memory()
    findings = Findings(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks.gpu_check", *sys.argv[1:]]),
        commit=commit(ROOT),
        machine=describe(memory),
        versions=versions(),
        settings={name: _plain(value) for name, value in vars(arguments).items()},
    )
    _headline(findings)
    if findings.machine.gpu and importlib.util.find_spec("torch"):
        findings.versions["fp32 in torch"] = findings.loading("-", "pytorch", tf32, foreign=True) or "unknown"
    with tempfile.TemporaryDirectory(prefix="fctl-check-") as scratch:
        for subject in subjects(findings, arguments.bundle, arguments.checkpoint, arguments.preset, Path(scratch)):
            findings.running(subject.name, "the check", partial(_check, findings, subject, arguments, memory))
    findings.peak_host_memory = memory.peak()
    _headline(findings)
    memory.close()
    write(findings, arguments.out)
    announce(f"wrote {arguments.out / 'report.md'} and report.json: {'failed' if findings.problems else 'passed'}")
    return 1 if findings.problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--bundle",
        action="append",
        default=[],
        help="default: the shipped one, with fp16 graphs where onnx is installed",
    )
    add("--checkpoint", type=Path, action="append", default=[], help="of a bundle, so that PyTorch's numbers count too")
    add("--preset", action="append", default=[], help="also time a preset with random weights; needs torch and onnx")
    add("--patches", type=Path, action="append", default=[], help="images or folders; default: those shipped with fctl")
    add("--backends", type=_backends, default=CHOICES, help=f"default: all of {','.join(CHOICES)}")
    add("--batch", type=_numbers, default=(1, 4, 8), help="default: 1,4,8; images run in the fastest")
    add("--sides", type=_numbers, default=(2448, 5000), help="sides of whole images in pixels, or 0 for none")
    add("--count", type=int, default=16, help="real patches to compare; default: 16")
    add("--rounds", type=int, default=7, help="rounds of timing; default: 7")
    add("--burst", type=float, default=0.5, help="seconds that an engine runs at a time; default: 0.5")
    add("--patience", type=float, default=120, help="seconds that one row of an engine may take; default: 120")
    add("--soak", type=float, default=3, metavar="MINUTES", help="for each backend on a GPU; 0: none; default: 3")
    add("--baseline", help="what ratios are to, as 'onnxruntime-cuda fp32'; default: pytorch or onnxruntime, fp32")
    add("--build", action=argparse.BooleanOptionalAction, default=True, help="build TensorRT engines that are missing")
    add("--out", type=Path, default=Path("gpu-check"), help="folder of the report; default: gpu-check")
    return parser.parse_args()


def _check(findings: Findings, subject: Subject, arguments: argparse.Namespace, memory: Memory) -> None:
    """Run all parts on one bundle."""
    images = findings.loading(subject.name, "real patches", partial(_images, subject, arguments.patches))
    if images is None:
        return
    batches = subject.batches(arguments.batch)
    found = _candidates(findings, subject, arguments)
    _agree(findings, subject, found, images, arguments)
    write(findings, arguments.out)
    plan = Plan(
        images=images, rounds=arguments.rounds, burst=arguments.burst, patience=arguments.patience,
        baseline=arguments.baseline,
    )  # fmt: skip
    for batch in batches:
        time_patches(findings, subject, found, batch, plan, memory)
        write(findings, arguments.out)
    for side in (side for side in arguments.sides if side):
        time_images(findings, subject, found, side, plan)
        write(findings, arguments.out)
    if arguments.soak:
        for candidate, batch in _to_soak(findings, subject, found):
            action = partial(soak, findings, subject, candidate, batch, arguments.soak, images, memory)
            findings.running(subject.name, candidate.label, action, part="soak")
            write(findings, arguments.out)


def _candidates(findings: Findings, subject: Subject, arguments: argparse.Namespace) -> list[Candidate]:
    """The candidates that take part, with their engines built."""
    found = candidates_for(subject.bundle, arguments.backends)
    if arguments.build:
        batches = subject.batches(arguments.batch)
        return [candidate for candidate in found if build(findings, subject, candidate, batches)]
    if "onnxruntime-tensorrt" in arguments.backends:
        reason = "builds engines whenever it loads a graph: not with --no-build"
        findings.skip(subject.name, "onnxruntime-tensorrt", reason)
    return [candidate for candidate in found if candidate.backend != "onnxruntime-tensorrt"]


def _agree(
    findings: Findings, subject: Subject, candidates: Sequence[Candidate], images: Sequence[Path],
    arguments: argparse.Namespace,
) -> None:  # fmt: skip
    """Compare all candidates with the reference; PyTorch takes part where it has the bundle's weights."""
    manifest = subject.bundle.manifest
    side = min([CHECKED_SIDE, *(side for side in arguments.sides if side)])
    image = mosaic(manifest, images, side, side * 3 // 4 + 1)  # wider or taller than any tile fits evenly
    patches = sample_patches(manifest, images, arguments.count, seed=0)
    expected = findings.loading(subject.name, "agreement", partial(expectation, subject, patches, image))
    if expected is None:
        return
    for candidate in candidates:
        if candidate.foreign and subject.checkpoint is None and manifest.network is not None:
            reason = "no --checkpoint of this bundle was given: random weights, of which only the speed counts"
            findings.skip(subject.name, candidate.label, reason, "agreement")
        else:
            compare(findings, subject, candidate, subject.batches(arguments.batch), expected)


def _to_soak(findings: Findings, subject: Subject, candidates: Sequence[Candidate]) -> list[tuple[Candidate, int]]:
    """The fastest precision and batch size of each backend on a GPU; without a GPU, of the fastest engine alone."""
    known = {one.label: one for one in candidates if not one.foreign}
    speeds = [row for row in findings.speed if row.bundle == subject.name and row.engine in known]
    on_gpu = [row for row in speeds if row.device != "CPU"]
    fastest: dict[str, tuple[Candidate, int]] = {}
    for row in sorted(on_gpu or speeds, key=lambda row: -row.patches):
        fastest.setdefault(known[row.engine].backend, (known[row.engine], row.batch))
    return list(fastest.values()) if on_gpu else list(fastest.values())[:1]


def _images(subject: Subject, places: Sequence[Path]) -> tuple[Path, ...]:
    """The images of some places; without places those that come with fctl, where they fit the bundle."""
    if places:
        return find_images(places)
    spec = subject.bundle.manifest.input
    if spec.bands != 3 or spec.dtype != "uint8":
        raise InputError(
            f"the shipped images have 3 bands of uint8, this bundle wants {spec.bands} of {spec.dtype}: give images of "
            "yours with --patches"
        )
    return shipped_images()


def _headline(findings: Findings) -> None:
    """Set the line on what this report is about."""
    gpu = findings.machine.gpu
    if gpu is None:
        findings.headline = f"No GPU was used: {findings.machine.no_gpu}. The CPU's engines took part alone."
    elif any(row.device_name == gpu.name for row in findings.agreement):
        findings.headline = f"On {gpu.name}, compute capability {gpu.compute_capability}."
    else:
        findings.headline = f"There is a GPU, {gpu.name}, but no engine of fctl ran on it: see what was skipped."


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def _backends(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(CHOICES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(CHOICES)}, found {', '.join(sorted(unknown))}")
    return names


def _plain(value: object) -> object:
    """A setting as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FctlError as error:
        sys.exit(str(error))
