"""The paper's Tables 4, 6 and 7 on a small scale: python -m experiments.ablation DATA RUNS [--seeds 0 1] [--steps 200].

DATA is the folder of the Dubai scenes. RUNS is a folder that keeps every run, so that an ablation that was stopped can
be continued, and so that several processes can share the seeds. For each seed a network without contexts is trained
first, as docs/dubai-alone.json says. Every row is trained from there for the same number of steps, with the same
patches: encoders of contexts start as that network's encoder and are kept, as in the last stage of the paper's release;
new layers start at random. Scores are those of part 7 of all scenes, which is not trained on (`experiments.dubai`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin

import numpy as np

from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.train.run import run_training
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.sources import ArraySource

from .dubai import WITHIN, score
from .scenes import HELD_OUT, PARTS, SCENES, Image8

DOCS = Path(__file__).parents[1] / "docs"
MEDIUM, LARGE = ({"name": name, "factor": factor, "size": 256} for name, factor in (("medium", 2.0), ("large", 4.0)))
BASE = "base"

Fields = dict[str, Any]
"""Fields of a training run, or of a preset, as JSON has them."""


def _row(*contexts: Fields, ale: bool = False, **lcf: Any) -> Fields:
    """A row's differences from the preset, which has both contexts, adaptive fusion, "ground" positions and ALE (d)."""
    fields: Fields = {"contexts": list(contexts), "lcf": {"position": None} | lcf}
    return fields | ({} if contexts else {"encoders": "shared"}) | ({} if ale else {"ale": None})


ROWS: Mapping[str, Fields] = {
    "no context": _row() | {"lcf": None},
    "local": _row(),
    "medium": _row(MEDIUM, self_attention=False),
    "large": _row(LARGE, self_attention=False),
    "medium and large": _row(MEDIUM, LARGE, self_attention=False),
    "all": _row(MEDIUM, LARGE),
    "all, `grid`": _row(MEDIUM, LARGE, position="grid"),
    "all, `ground`": _row(MEDIUM, LARGE, position="ground"),
    "all, `ground`, averaged": _row(MEDIUM, LARGE, position="ground", fusion="average"),
    "all, `ground`, ALE (d)": _row(MEDIUM, LARGE, position="ground", ale=True),
}


def main() -> None:
    """Train what is missing, and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1], help="none: only the table")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", nargs="*", choices=[*ROWS], default=[*ROWS])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        folder = arguments.runs / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / f"{BASE}.done"
        if not done.exists():
            _train(folder, BASE, _config("dubai-alone.json", arguments.data, seed))
            done.touch()
        for name in arguments.rows:
            result = folder / f"{_slug(name)}.score.json"
            if not result.exists():
                config = _row_config(folder, arguments.data, seed, arguments.steps, ROWS[name])
                started = time.process_time()
                out = _train(folder, _slug(name), config)
                seconds = time.process_time() - started
                result.write_text(json.dumps(_scored(out, arguments.data) | {"seconds": seconds}), encoding="utf-8")
    print(table(arguments.runs))


def table(runs: Path) -> str:
    """Tabulate all runs that there are.

    Args:
        runs: The folder that keeps them.

    Returns:
        A Markdown table: mean and half the range over the seeds, in points, and CPU time over that of the first row.
    """
    lines = ["| contexts | mIoU | seeds | accuracy | CPU time of training |", "|---|---|---|---|---|"]
    first: float | None = None
    for name in ROWS:
        found = [json.loads(path.read_text("utf-8")) for path in sorted(runs.glob(f"seed*/{_slug(name)}.score.json"))]
        if not found:
            continue
        scores = [100 * one["miou"] for one in found]
        seconds = statistics.mean(one["seconds"] for one in found)
        first = first or seconds
        lines.append(
            f"| {name} | {statistics.mean(scores):.1f} ± {(max(scores) - min(scores)) / 2:.1f} "
            f"| {', '.join(f'{value:.1f}' for value in scores)} "
            f"| {100 * statistics.mean(one['accuracy'] for one in found):.1f} | {seconds / first:.2f} |"
        )
    return "\n".join(lines)


def _config(name: str, data: Path, seed: int) -> Fields:
    """A training run of docs/, for this data and seed."""
    config: Fields = json.loads((DOCS / name).read_text("utf-8"))
    where = {"root": str(data.resolve()), "description": str(DOCS / "dubai.json")}
    return config | {"seed": seed, "data": config["data"] | where}


def _row_config(folder: Path, data: Path, seed: int, steps: int, row: Fields) -> Fields:
    """The training run of a row. It validates on one small part, for the log: `_scored` scores all, with contexts."""
    config = _config("dubai-contexts.json", data, seed)
    frozen = ["context_encoders"] if row["contexts"] else []
    names = [f"{scene}/{part:03d}" for scene in SCENES for part in PARTS if part != HELD_OUT]
    (folder / "training.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return config | {
        "epoch": steps,
        "data": config["data"] | {"training": "training.txt", "validation": f"2/{HELD_OUT:03d}"},
        "network": config["network"] | {"overrides": row, "weights": f"{BASE}/last.pt"},
        "augmentation": config["augmentation"] | {"context_dropout": 0.0},
        "stages": [config["stages"][0] | {"epochs": 1, "frozen": frozen}],
        "finish": {"recalibrate": False, "class_offsets": False},
    }


def _train(folder: Path, name: str, config: Fields) -> Path:
    """Train, or continue; the folder with the checkpoints."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config | {"out": name}, indent=2), encoding="utf-8")
    return run_training(path, resume=True).out


def _scored(out: Path, data: Path) -> dict[str, float]:
    """The scores of the last checkpoint within the scenes."""
    read = read_checkpoint(out / "last.pt")
    assert read.card is not None
    manifest = draft_manifest(out.name, read.card, dict.fromkeys(read.card.network.context_names))
    module = ModuleNetwork(manifest, load_network(read.card.network, read.state, str(out)))

    def segment(pixels: Image8) -> Image8:
        return np.concatenate([rows.ids for rows in segment_rows(module, ArraySource(pixels))])

    confusion = score(manifest, segment, data, runs=[WITHIN])[WITHIN]
    return {"miou": confusion.miou(), "accuracy": confusion.accuracy()}


def _slug(name: str) -> str:
    """A row's name as part of a file's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


if __name__ == "__main__":
    main()
