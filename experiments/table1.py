"""The paper's Table 1 on a small scale: python -m experiments.table1 DATA RUNS [--minutes 30] [--only fctl-lite0].

DATA is the folder of the Dubai scenes. RUNS keeps everything, so that it can be killed and started again: a system that
is done is not trained again, and one that was killed goes on from its last epoch.

Every system of the paper gets the same budget of processor time for its training steps, `--minutes` on two cores, from
random weights, with patches of 256 pixels, the same images, the same optimiser and the schedule fitted to the budget,
in fp32 or bf16, whichever is the faster for it on the machine at hand.
Networks are narrower than the paper's, or of a smaller backbone, for the budget to mean something: the width stands in
the table. Each image is one of the parts of the scenes, and part 7 of each is for testing. What is scored is the last
checkpoint, exported, through the runtime: no checkpoint is chosen by its score. All systems have one seed, the best two
three. This compares small trainings, not the systems as their papers trained them. When all are trained, what the
bundles take is measured one by one: nothing else should run then.

CascadePSP refines the masks of another system, which is trained first where it is not there yet. Its budget comes on
top of that system's; its scores and costs are those of both, one after the other. It has one seed, and is not one of
the best two: its masks are another system's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

from PIL import Image

from fctl.export.card import ExportOptions
from fctl.export.pipeline import export_bundle
from fctl.model.presets import PRESETS
from fctl.model.train.run import run_training
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import FctlError
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.selection import select
from fctl.runtime.spread.processes import Processes

from . import costs, refined
from .scoreboard import draw, tables
from .systems import (
    BUNDLE,
    DESCRIPTION,
    EPOCHS,
    FIRST,
    PRECISIONS,
    RESULT,
    SYSTEMS,
    TESTED,
    TRAINED,
    Fields,
    System,
    config_of,
    names_to_train,
)  # fmt: skip

MEASURED = "tile7/images/image_part_007.jpg"  # on which costs are measured
_TRIAL, _WARM = 8, 2  # steps of a trial, and of these the first that do not count
_CORES = 2
_MORE_SEEDS = (1, 2)


def main() -> None:
    """Train what is missing, and print the tables of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training for each system, on two cores")
    parser.add_argument("--processes", type=int, default=_CORES, help="that train at once, one core each")
    parser.add_argument("--only", nargs="*", help="presets; default: all that there are")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--measure", action="store_true", help="train nothing, and time all anew")
    parser.add_argument("--json", type=Path, help="where all figures are written")
    parser.add_argument("--chart", type=Path, help="the picture, .png or .svg")
    arguments = parser.parse_args()
    chosen = [system for system in SYSTEMS if system.preset in PRESETS and system.preset in (arguments.only or PRESETS)]
    if not (arguments.tables or arguments.measure):
        _train(chosen, arguments.data, arguments.runs, arguments.minutes, arguments.processes)
    if not arguments.tables:
        for path in sorted(arguments.runs.glob(f"*/{FIRST}/{RESULT}")):
            _measure(path, arguments.data, anew=arguments.measure)
    found = {system: done for system in chosen if (done := _done(system, arguments.runs))}
    print(tables(found))
    if arguments.json:
        rows = [one for results in found.values() for one in results]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if arguments.chart:
        draw(found, arguments.chart)


def _train(systems: Sequence[System], data: Path, runs: Path, minutes: float, count: int) -> None:
    """Train what is missing, in processes of one thread each: two do more together than one that has two threads."""
    refiners = [system for system in systems if system.refines]
    coarse = [system for system in SYSTEMS if system.preset in {refiner.refines for refiner in refiners}]
    makers = [system for system in systems if not system.refines]
    with patch.dict(os.environ, OMP_NUM_THREADS="1"), closing(Processes(count)) as crew:
        first = [(system, 0) for system in dict.fromkeys([*coarse, *makers])]
        list(crew.each(_result, [(*one, data, runs, minutes) for one in first]))
        left = [*itertools.product(refiners, [0]), *itertools.product(_best(makers, runs), _MORE_SEEDS)]
        list(crew.each(_result, [(*one, data, runs, minutes) for one in left]))


def _done(system: System, runs: Path) -> list[Fields]:
    """The results of a system, that of the first seed first."""
    paths = sorted((runs / system.preset).glob(f"seed*/{RESULT}"))
    return [_read(path) for path in paths]


def _best(systems: Sequence[System], runs: Path) -> list[System]:
    """The two systems with the highest mIoU; none where there are no more than two."""
    scored = {system: done[0] for system in systems if (done := _done(system, runs)) and "error" not in done[0]}
    return sorted(scored, key=lambda system: -scored[system]["miou"])[:2] if len(scored) > 2 else []


def _result(system: System, seed: int, data: Path, runs: Path, minutes: float) -> None:
    """Train, export and score a system, unless that is done."""
    folder = runs / system.preset / f"seed{seed}"
    path = folder / RESULT
    if path.exists():
        return
    print(f"{system.name} ({system.preset}), seed {seed}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    told: Fields = {
        "system": system.name,
        "preset": system.preset,
        "width": system.width,
        "seed": seed,
        "minutes": minutes,
    }
    try:
        budget = _budget(system, data, runs, minutes)
        steps = max(1, budget["steps"] // EPOCHS)  # of each epoch
        if not (folder / "config.json").exists():
            _write_config(folder, config_of(system, data, seed, steps, budget["precision"]))
        run_training(folder / "config.json", resume=True)
        told |= {"steps": EPOCHS * steps, "precision": budget["precision"]} | _scored(system, folder, data)
    except FctlError as error:  # one system that fails does not cost the others
        told |= {"error": str(error)}
    _write(path, told)


def _write_config(folder: Path, config: Fields) -> None:
    (folder / TRAINED).write_text("\n".join(names_to_train()) + "\n", encoding="utf-8")
    _write(folder / "config.json", config)


def _write(path: Path, fields: Fields) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Fields:
    fields: Fields = json.loads(path.read_text("utf-8"))
    return fields


class _EnoughError(Exception):
    """A trial has made its steps."""


def _budget(system: System, data: Path, runs: Path, minutes: float) -> Fields:
    """How many steps the budget allows, and in which precision: the same for all seeds of a system."""
    kept = runs / system.preset / "steps.json"
    if not kept.exists():
        seconds = {precision: _second(system, data, kept.with_name("trial"), precision) for precision in PRECISIONS}
        precision, second = min(seconds.items(), key=lambda item: item[1])
        steps = max(EPOCHS, round(60 * _CORES * minutes / second))
        _write(kept, {"steps": steps, "precision": precision, "processor seconds a step": seconds})
    return _read(kept)


def _second(system: System, data: Path, folder: Path, precision: str) -> float:
    """Processor seconds that a step takes, by a few of each stage in a folder that is deleted again."""
    config = config_of(system, data, 0, _TRIAL, precision)
    config["stages"] = [stage | {"epochs": 1} for stage in config["stages"]]
    times: dict[str, list[float]] = {f"stage {stage['name']}": [] for stage in config["stages"]}
    last = list(times)[-1]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_config(folder, config)

    def progress(what: str, done: int, _: int) -> None:
        if what in times:
            times[what].append(time.process_time())
            if what == last and done == _TRIAL:
                raise _EnoughError

    try:
        run_training(folder / "config.json", progress=progress)
    except _EnoughError:
        shutil.rmtree(folder)
    return statistics.mean(_median_step(ends[_WARM:]) for ends in times.values())


def _median_step(ends: Sequence[float]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def _scored(system: System, folder: Path, data: Path) -> Fields:
    """Scores, size and work of the last checkpoint; with what makes the masks that it refines, those of both."""
    maker = _maker(system, folder)
    added = _read(maker.with_name(RESULT)) if maker else {}
    if "error" in added:
        raise FctlError(f"{system.refines}: {added['error']}")
    checkpoint, bundle, image = folder / "run" / "last.pt", folder / BUNDLE, data / MEASURED
    shutil.rmtree(bundle, ignore_errors=True)
    export_bundle(checkpoint, bundle, ExportOptions())
    dataset, coarse = select(open_dataset(data, description=DESCRIPTION), TESTED), None
    if maker:
        confusion, (coarse,) = refined.score(dataset, maker, bundle), refined.masks(maker, [image])
    else:
        runs = plan_runs([read_bundle(bundle)], backends=("onnxruntime",))
        confusion = evaluate(dataset, runs, folder / "masks").results[0].confusion
    read = read_checkpoint(checkpoint)
    assert read.card is not None
    network = load_network(read.card.network, read.state, str(checkpoint))
    own = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac": costs.work(network, read.card, image, coarse) / _megapixels(image),
        "bundle": sum(file.stat().st_size for file in bundle.iterdir()) / 1e6,
    }
    return {
        "miou": confusion.miou(), "f1": confusion.mean_f1(), "accuracy": confusion.accuracy(),
        "iou": dict(zip(dataset.description.class_names, map(float, confusion.iou()), strict=True)),
    } | {name: figure + added.get(name, 0) for name, figure in own.items()}  # fmt: skip


def _maker(system: System, folder: Path) -> Path | None:
    """The bundle that makes the masks which a system refines; None for one that makes masks itself."""
    return folder.parents[1] / system.refines / FIRST / BUNDLE if system.refines else None


def _measure(path: Path, data: Path, *, anew: bool) -> None:
    """Add to a result what a run of its bundle takes for a megapixel; anew: also where that is there."""
    result = _read(path)
    if "error" in result or ("seconds" in result and not anew):
        return
    (system,) = (one for one in SYSTEMS if one.preset == result["preset"])
    maker, bundle = _maker(system, path.parent), path.with_name(BUNDLE)
    took, megapixels = costs.run([maker, bundle] if maker else [bundle], data / MEASURED), _megapixels(data / MEASURED)
    own = {"seconds": took.seconds / megapixels, "megabytes": took.megabytes / megapixels, "peak": took.megabytes}
    _write(path, result | own)


def _megapixels(image: Path) -> float:
    width, height = Image.open(image).size
    return width * height / 1e6


if __name__ == "__main__":
    main()
