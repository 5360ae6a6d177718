"""Ours beside others, from image file to mask file, in turn: python -m benchmarks.versus [--preset P] [--side 2448].

1. One network of the paper with random weights: the public release's procedure in PyTorch fp32 (every patch with its
   contexts, cut with Pillow), the same with torch.compile, the plain loop over tiles of a network without contexts, and
   ours: contexts encoded once a patch (exact) and once a raster (shared), in every engine and precision of a CPU.
2. Where they are named (`--geodeep`, `--monai`): other tools for rasters on one network that costs next to nothing.

Medians are printed, with the ratio to the first row, and the share of pixels that get the class of the first row.
"""

from __future__ import annotations

import argparse
import copy
import logging
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from fctl.model.interface import ContextNetwork
from fctl.model.presets import PRESETS, without_contexts
from fctl.runtime.bench.cases import Case
from fctl.runtime.bench.machine import cores, load
from fctl.runtime.bench.pixels import write_mosaic
from fctl.runtime.bench.process import CaseProcess
from fctl.runtime.bench.work import Image as BenchImage
from fctl.runtime.bench.work import WarmUp
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.choices import Backend, ContextEncoding, RunPrecision
from fctl.runtime.engines.processor import name as processor
from fctl.runtime.errors import FctlError

from .parts import peers
from .parts.procedures import Took, elsewhere, plain, release, timed
from .parts.pytorch import compile_steps
from .parts.random_weights import make_network

_ENGINES: tuple[tuple[Backend, RunPrecision], ...] = (
    ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
)  # fmt: skip
_SMALL = 500  # side of the image that everything is warmed up with: one patch


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to segment the image.

    Attributes:
        name: What it is called.
        run: Takes the image file to a mask file, and tells what that took.
        mask: Where its mask goes.
        took: What it took in each round so far.
    """

    name: str
    run: Callable[[Path, Path], Took]
    mask: Path
    took: list[Took] = field(default_factory=list)


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset", default="release-deepglobe", help="a preset without positions as inputs; none leaves 1. out"
    )
    parser.add_argument("--side", type=int, default=2448, help="of the image in pixels")
    parser.add_argument("--width", type=float, default=1.0, help="what every number of channels is multiplied by")
    parser.add_argument("--batch", type=int, default=4, help="of ours; the procedures take patch after patch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="of 1. only what has one of these in its name")
    parser.add_argument("--geodeep", type=Path, help="the program geodeep, in an environment with geodeep and scipy")
    parser.add_argument("--monai", type=Path, help="a Python with monai, torch and Pillow")
    parser.add_argument("--peers-side", type=int, default=6000, help="of the image for other tools")
    arguments = parser.parse_args()
    logging.getLogger("fctl").setLevel(logging.ERROR)  # random weights are validated for nothing
    print(f"{processor()}, {cores()} cores, load {load()}")
    with tempfile.TemporaryDirectory(prefix="fctl-versus-") as folder:
        if arguments.preset != "none":
            _procedures(Path(folder), arguments)
        if arguments.geodeep or arguments.monai:
            _peers(Path(folder), arguments)


def _procedures(folder: Path, arguments: argparse.Namespace) -> None:
    """The release's procedure, and ours."""
    preset = PRESETS[arguments.preset]
    config = replace(preset.network, classes=5)
    serving = replace(preset.serving, raster=arguments.side)
    made = make_network("network", config, folder, serving=serving, width=arguments.width)
    alone = make_network("alone", without_contexts(config), folder, serving=serving, width=arguments.width)
    image, small = folder / "image.tif", folder / "small.tif"
    write_mosaic(image, arguments.side, 3, "uint8")
    write_mosaic(small, _SMALL, 3, "uint8")
    ours = [
        *_ours(made.bundle, "fctl", ("exact", "shared"), folder, small, arguments.batch),
        *_ours(alone.bundle, "fctl without contexts", ("exact",), folder, small, arguments.batch),
    ]

    def wanted(name: str) -> bool:
        return not arguments.only or any(text in name for text in arguments.only)

    contenders = [
        *_in_pytorch(made.network, alone.network, made.bundle, folder, small, wanted),
        *(contender for contender in ours if wanted(contender.name)),
    ]
    for number in range(arguments.rounds):
        for contender in (*contenders[number % len(contenders) :], *contenders[: number % len(contenders)]):
            try:
                contender.took.append(contender.run(image, contender.mask))
            except FctlError as error:
                print(f"skipped {contender.name}: {error}", flush=True)
        contenders = [contender for contender in contenders if contender.took]
    title = f"{arguments.preset}, width {arguments.width:g}, {arguments.side} x {arguments.side} pixels"
    _print(f"{title}, medians of {arguments.rounds} rounds", contenders)


def _in_pytorch(
    network: ContextNetwork,
    alone: ContextNetwork,
    bundle: Bundle,
    folder: Path,
    small: Path,
    wanted: Callable[[str], bool],
) -> list[Contender]:
    """The procedures in PyTorch, each run once, as far as they are wanted by their names."""
    manifest = bundle.manifest
    steps = {
        "release's procedure, PyTorch fp32": release(network, manifest),
        "plain loop without contexts, PyTorch fp32": plain(alone, manifest),
    }
    compiled_name = "release's procedure, torch.compile"
    if wanted(compiled_name) and (shutil.which("g++") or shutil.which("clang++")):
        compiled = copy.deepcopy(network)
        compile_steps(compiled)
        steps[compiled_name] = release(compiled, manifest)
    elif wanted(compiled_name):
        print("skipped torch.compile: it needs a C++ compiler, and there is none here")
    found = []
    for number, (name, run) in enumerate((name, run) for name, run in steps.items() if wanted(name)):
        run(small, folder / "warm.png")
        found.append(Contender(name=name, run=partial(timed, run), mask=folder / f"torch{number}.png"))
    return found


def _ours(
    bundle: Bundle,
    name: str,
    contexts: Sequence[ContextEncoding],
    folder: Path,
    small: Path,
    batch: int,
) -> list[Contender]:
    """A bundle in every engine that runs here."""
    found = list[Contender]()
    for (engine, precision), encoding in product(_ENGINES, contexts):
        case = Case(bundle=str(bundle.folder), backend=engine, precision=precision, contexts=encoding, batch=batch)
        label = f"{name}, {engine} {precision}" + (f", {encoding} contexts" if len(contexts) > 1 else "")
        mask = folder / f"{bundle.folder.stem}{len(found)}.tif"
        found.append(Contender(name=label, run=partial(_warmed_up, case, small), mask=mask))
    return found


def _warmed_up(case: Case, small: Path, image: Path, mask: Path) -> Took:
    """Segment an image in a process of its own, which has segmented a small one.

    The process ends with the image: the paper's networks would not lie in memory in all engines at once.
    """
    with CaseProcess(case) as process:
        process.ask(WarmUp(image=BenchImage(place=str(small)), folder=mask.parent))
        return elsewhere(process, image, mask)


def _print(title: str, contenders: Sequence[Contender]) -> None:
    first = contenders[0]
    reference, base = _mask(first.mask), statistics.median(took.seconds for took in first.took)
    print(f"\n{title}\n\n| way | seconds | lowest - highest | times as fast | processor seconds | same class |")
    print("|---|---|---|---|---|---|")
    for contender in contenders:
        seconds = sorted(took.seconds for took in contender.took)
        middle, worked = statistics.median(seconds), statistics.median(took.processor for took in contender.took)
        same = f"{float((_mask(contender.mask) == reference).mean()):.2%}" if "without" not in contender.name else "-"
        print(
            f"| {contender.name} | {middle:.1f} | {seconds[0]:.1f} - {seconds[-1]:.1f} | {base / middle:.2f} "
            f"| {worked:.1f} | {same} |",
            flush=True,
        )


def _mask(path: Path) -> np.ndarray:
    """Class ids (height, width) of a mask."""
    return np.array(Image.open(path))


def _peers(folder: Path, arguments: argparse.Namespace) -> None:
    """Other tools on a network that costs next to nothing."""
    image = folder / "large.tif"
    write_mosaic(image, arguments.peers_side, 3, "uint8")
    commands = peers.commands(folder, image, arguments.geodeep, arguments.monai)
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            took[name].append(peers.seconds_of(command))
    side = arguments.peers_side
    print(
        f"\none convolution of 1x1, {side} x {side} pixels, whole commands\n\n| tool | seconds | ratio |\n|---|---|---|"
    )
    base = statistics.median(took["fctl"])
    for name, seconds in took.items():
        print(f"| {name} | {statistics.median(seconds):.1f} | {statistics.median(seconds) / base:.2f} |")


if __name__ == "__main__":
    main()
