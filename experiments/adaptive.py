"""Would an adaptive number of contexts pay? python -m experiments.adaptive DUBAI WORK --costs WORK/*.json.

WORK keeps what was segmented, so that a run goes on where another one stopped. `experiments.adaptive_cost` makes the
costs. Writes docs/adaptive.json, adaptive.png and adaptive-map.jpg, and prints the tables of docs/adaptive.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.segment.opening import load_network

from . import adaptive_gain as gain
from .adaptive_charts import draw_curves, draw_map
from .adaptive_tables import tables
from .adaptive_tiles import ALL, CHEAPER, MEDIUM, NONE, Gate, Masks, Tiles, look_at_all
from .adaptive_windows import identical
from .risk import (
    Values,
    below,
    betting,
    calibrated,
    clopper_pearson,
    coverage_at,
    curve,
    hoeffding_bentkus,
    least_draws,
)
from .scenes import SCENES

DOCS = Path("docs")
LIMIT, CONFIDENCE = 0.005, 0.95
DRAWS, REPEATS = 2000, 1000
GRID = [step / 200 for step in range(201)]  # thresholds of the mean margin
WHOLE = 4  # the scene of the map
SCORES = ("margin", "best", "sure")

Json = dict[str, Any]
Chosen = NDArray[np.bool_]


def main() -> None:
    """Segment what is missing, and write figures, pictures and tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dropout", help="a bundle that was trained with context dropout")
    parser.add_argument("--costs", type=Path, nargs=2, required=True, help="of the default bundle, of fctl-vgg16")
    parser.add_argument("--rasters", type=Path, nargs="*", default=[], help="to count identical windows of")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    bundles = {"default": "default"} | ({"dropout": arguments.dropout} if arguments.dropout else {})
    found, looked = dict[str, Json](), dict[str, Tiles]()
    for name, bundle in bundles.items():
        looked[name], masks = _looked(arguments, name, bundle, {})
        held = looked[name].of(looked[name].held >= 0.5)
        gates = {f"gate, {shown}": _gate(held, shown) for shown in (NONE, MEDIUM)}
        _, gated = _looked(arguments, f"{name}-gated", bundle, gates)
        found[name] = _risks(held) | {
            "merged": _merged(masks | gated),
            "trained on": _trained(looked[name], gates) if name == bundle else {},
        }
    costs = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.costs]
    figures: Json = {
        "limit": LIMIT, "confidence": CONFIDENCE, "draws": DRAWS, "repeats": REPEATS,
        "least draws": least_draws(LIMIT, CONFIDENCE),
        "networks": found,
        "costs": costs,
        "gains": _gains(looked["default"], costs),
        "identical windows": _identical(arguments),
    }  # fmt: skip
    (DOCS / "adaptive.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw_curves(looked, figures).save(DOCS / "adaptive.png")
    draw_map(arguments.data, WHOLE, looked["default"], DOCS / "adaptive-map.jpg")
    print(tables(figures))


def _looked(
    arguments: argparse.Namespace, name: str, bundle: str, gates: Mapping[str, Gate]
) -> tuple[Tiles, dict[int, Masks]]:
    """What became of the tiles and masks with a bundle; kept in the folder, with the gates that decided."""
    table, kept = arguments.work / f"{name}.npz", arguments.work / f"{name}.masks.json"
    said = {gate: asdict(one) for gate, one in gates.items()}
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8"))["gates"] != said:
        read = read_bundle(bundle)
        with closing(load_network(read, choose_engine("onnxruntime", "fp32", read, batch=4), 4, once=True)) as network:
            whole = (WHOLE,) if name == bundle else ()  # for the map
            tiles, masks = look_at_all(network, arguments.data, gates, whole)
        tiles.save(table)
        content = {"gates": said, "scenes": {number: one.plain() for number, one in masks.items()}}
        kept.write_text(json.dumps(content), encoding="utf-8")
    scenes = json.loads(kept.read_text(encoding="utf-8"))["scenes"]
    return Tiles.load(table), {int(number): Masks.of(one) for number, one in scenes.items()}


def _gate(tiles: Tiles, shown: str) -> Gate:
    """The gate that draws from some tiles allow."""
    index = CHEAPER.index(shown)
    drawn = np.random.default_rng(0).integers(len(tiles.y), size=DRAWS)
    rule = calibrated(tiles.margin[drawn, index], tiles.changed[drawn, index], LIMIT, CONFIDENCE, GRID)
    return Gate(shown=shown, threshold=rule.threshold)


def _risks(tiles: Tiles) -> Json:
    """Risk against coverage of part 7, and what bounds make of it."""
    found: Json = {"tiles": len(tiles.y)}
    for index, shown in enumerate(CHEAPER):
        losses, margins = tiles.changed[:, index], tiles.margin[:, index]
        steps = np.linspace(0, 1, 11)
        found[shown] = {
            "changed": float(losses.mean()),
            "risk by coverage": {
                score: [float(np.interp(step, *curve(getattr(tiles, score)[:, index], losses))) for step in steps]
                for score in SCORES
            },
            "coverage at the limit": {
                score: coverage_at(getattr(tiles, score)[:, index], losses, LIMIT) for score in SCORES
            }
            | {"clairvoyant": coverage_at(-losses, losses, LIMIT)},
            "bounds": _bounds(margins, losses),
            "repeated": _repeated(margins, losses),
            "other half": _moved(tiles, _west(tiles), ~_west(tiles), index),
            "scene left out": {
                number: _moved(tiles, tiles.scene != number, tiles.scene == number, index) for number in SCENES
            },
        }
    return found


def _bounds(margins: Values, losses: Values) -> Json:
    """What the same draws allow by each bound; of coins, one random pixel of every patch is looked at."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(losses), size=DRAWS)
    coins = (random.random(DRAWS) < losses[drawn]).astype(np.float64)
    found: Json = {}
    for name, drawn_losses, passes in (
        ("betting", losses[drawn], below),
        ("Hoeffding and Bentkus", losses[drawn], lambda lost, limit, sure: hoeffding_bentkus(lost, sure) <= limit),
        ("Clopper and Pearson", coins, lambda hit, lim, sure: clopper_pearson(int(hit.sum()), len(hit), sure) <= lim),
    ):
        rule = calibrated(margins[drawn], drawn_losses, LIMIT, CONFIDENCE, GRID, passes)
        kept = margins >= rule.threshold
        found[name] = {
            "threshold": rule.threshold if kept.any() else None,
            "coverage": float(kept.mean()),
            "risk": float(np.where(kept, losses, 0).mean()),
            "bound by betting": betting(np.where(margins[drawn] >= rule.threshold, losses[drawn], 0), CONFIDENCE),
        }
    return found


def _repeated(margins: Values, losses: Values) -> Json:
    """How often the promise is broken if the calibration is repeated with other draws."""
    risks, coverages = list[float](), list[float]()
    for seed in range(REPEATS):
        drawn = np.random.default_rng((1, seed)).integers(len(losses), size=DRAWS)
        rule = calibrated(margins[drawn], losses[drawn], LIMIT, CONFIDENCE, GRID)
        kept = margins >= rule.threshold
        coverages.append(float(kept.mean()))
        risks.append(float(np.where(kept, losses, 0).mean()))
    return {
        "broken": float((np.array(risks) > LIMIT).mean()),
        "risk": float(np.median(risks)),
        "coverage": float(np.median(coverages)),
    }


def _west(tiles: Tiles) -> Chosen:
    """The tiles of the left half of every part 7."""
    middle = {number: np.median(tiles.x[tiles.scene == number]) for number in SCENES}
    return tiles.x < np.array([middle[int(number)] for number in tiles.scene])


def _moved(tiles: Tiles, here: Chosen, there: Chosen, index: int) -> Json:
    """What a gate that was calibrated on some tiles does to others."""
    gate = _gate(tiles.of(here), CHEAPER[index])
    return _applied(tiles.of(there), gate)


def _applied(tiles: Tiles, gate: Gate) -> Json:
    index = CHEAPER.index(gate.shown)
    kept = tiles.margin[:, index] >= gate.threshold
    return {
        "tiles": len(tiles.y),
        "coverage": float(kept.mean()),
        "risk": float(np.where(kept, tiles.changed[:, index], 0).mean()),
    }


def _trained(tiles: Tiles, gates: Mapping[str, Gate]) -> Json:
    """What the gates of part 7 do to the tiles that the network was trained on."""
    others = tiles.of(tiles.held == 0)
    return {gate.shown: _applied(others, gate) for gate in gates.values()}


def _merged(masks: Mapping[int, Masks]) -> Json:
    """What becomes of whole masks of part 7, pooled."""
    pixels = sum(one.pixels for one in masks.values())
    found: Json = {}
    for name in next(iter(masks.values())).changed:
        counts = sum((one.confusion[name] for one in masks.values()), Confusion.empty(5))
        changed = sum(one.changed[name] for one in masks.values())
        found[name] = {"changed": changed / pixels, "miou": counts.miou()}
    return found


def _gains(tiles: Tiles, costs: list[Json]) -> Json:
    """What gates of the default bundle would save of the time of both networks."""
    here = tiles.of(tiles.held > 0)
    default, vgg = gain.measured(costs[0]), gain.counted(costs[1])
    found: Json = {"exact, no context at all": gain.exact_ceiling(costs[0])}
    for name, parts, geometry in (("default", default, gain.LITE), ("fctl-vgg16", vgg, gain.VGG)):
        rows: Json = {"parts": asdict(parts)}
        for shown in (NONE, MEDIUM):
            rows[shown] = [_at_coverage(parts, here, shown, coverage, geometry) for coverage in np.linspace(0, 1, 21)]
        most, bound = gain.clairvoyant(here, rows[NONE][-1]["gain"], rows[MEDIUM][-1]["gain"], LIMIT)
        share, idle = gain.saved(parts, here, most, geometry)
        shares = {shown: float((most == shown).mean()) for shown in (NONE, MEDIUM, ALL)}
        rows["clairvoyant"] = {"shown": shares, "gain": share, "windows": idle, "gain, windows in proportion": bound}
        found[name] = rows
    return found


def _at_coverage(parts: gain.Parts, tiles: Tiles, shown: str, coverage: float, geometry: gain.Geometry) -> Json:
    """What is saved where the surest tiles are shown less."""
    margins = tiles.margin[:, CHEAPER.index(shown)]
    surest = np.argsort(-margins, kind="stable")[: round(coverage * len(margins))]
    seen = np.full(len(margins), ALL, dtype="<U6")
    seen[surest] = shown
    share, idle = gain.saved(parts, tiles, seen, geometry)
    # a gate that needs the cheaper prediction first: tiles that are not kept are segmented twice
    again = (1 - coverage) * (parts.look + parts.fusion * (parts.fusion_of_two if shown == MEDIUM else 0))
    return {"coverage": float(coverage), "gain": share, "gain, looked at first": share - again, "windows": idle}


def _identical(arguments: argparse.Namespace) -> list[Json]:
    """Windows that are the same as another one, by raster; kept in the folder."""
    kept = arguments.work / "identical.json"
    if not kept.exists():
        manifest = read_bundle("default").manifest
        rows = [asdict(found) for path in arguments.rasters if (found := identical(manifest, path))]
        kept.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(kept.read_text(encoding="utf-8"))
    return list(rows)


if __name__ == "__main__":
    main()
