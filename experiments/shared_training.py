"""Whether training with shared contexts helps: python -m experiments.shared_training DATA RUNS [--steps 900].

A system of Table 1 in small (experiments/systems.py) is trained twice from the same seed and for as many steps, with
contexts as exact serving cuts them and as shared serving does (`"contexts"` of fctl-train). Both are exported, and both
bundles segment part 7 of each scene with exact and with shared contexts. What is trained already is kept in RUNS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

from fctl.export.card import ExportOptions
from fctl.export.pipeline import export_bundle
from fctl.model.train.run import run_training
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.choices import ContextEncoding
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.selection import select

from .systems import DESCRIPTION, EPOCHS, SYSTEMS, TESTED, TRAINED, System, config_of, names_to_train

_WAYS: tuple[ContextEncoding, ...] = ("exact", "shared")


def main() -> None:
    """Train what is missing, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--preset", default="fctl-lite0", help="the system; default: %(default)s")
    parser.add_argument("--steps", type=int, default=900, help="of each training; default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    system = next(system for system in SYSTEMS if system.preset == arguments.preset)
    print(f"| trained with | seed | mIoU, {' | mIoU, '.join(_WAYS)} | lost by sharing | same class |\n|{'---|' * 6}")
    for seed, way in itertools.product(arguments.seeds, _WAYS):
        folder = arguments.runs / f"{system.preset}-{way}-{seed}"
        bundle = _trained(system, way, seed, arguments.steps, arguments.data, folder)
        exact, shared, same = _scores(bundle, arguments.data, folder / "masks")
        cells = (way, str(seed), f"{100 * exact:.2f}", f"{100 * shared:.2f}", f"{100 * (exact - shared):.2f}")
        print(f"| {' | '.join(cells)} | {same:.2%} |", flush=True)


def _trained(system: System, way: str, seed: int, steps: int, data: Path, folder: Path) -> Bundle:
    """The bundle of a training, which goes on where it was stopped."""
    out = folder / "bundle.fctl"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED).write_text("\n".join(names_to_train()) + "\n", encoding="utf-8")
        config = config_of(system, data, seed, steps // EPOCHS, "fp32") | {"contexts": way}
        config["optimisation"]["average"] = 0.99  # as for the figures of docs/training.md
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        run_training(folder / "config.json", resume=True)
        export_bundle(folder / "run" / "last.pt", out, ExportOptions())
    return read_bundle(out)


def _scores(bundle: Bundle, data: Path, masks: Path) -> tuple[float, float, float]:
    """mIoU with exact and with shared contexts, and the share of pixels that keep their class."""
    dataset = select(open_dataset(data, description=DESCRIPTION), TESTED)
    runs = plan_runs([bundle], backends=("onnxruntime",), encodings=_WAYS)
    exact, shared = evaluate(dataset, runs, masks).results
    return exact.confusion.miou(), shared.confusion.miou(), shared.agreement


if __name__ == "__main__":
    main()
