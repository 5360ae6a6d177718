"""The speed of an int8 export in the engines that are installed here."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fctl.calib.search import Found, Point
from fctl.calib.speed import ENGINES, Speed, speeds
from fctl.calib.trials import Fp32Graphs, Numbers
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.segment.batches import PatchBatch

from .int8_graphs import fp32_specs, int8_bundle

log = logging.getLogger(__name__)


def timed(
    graphs: Fp32Graphs, found: Found, numbers: Numbers, batch: PatchBatch, bundle: Bundle, scratch: Path
) -> tuple[tuple[Speed, ...], dict[float, float]]:
    """Time a bundle with int8 graphs, and some other points of the search.

    Args:
        graphs: The fp32 graphs.
        found: The result of the search; its best point is in the bundle.
        numbers: Ranges and biases of the layers.
        batch: One patch.
        bundle: The bundle with graphs of both precisions.
        scratch: A folder for temporary files.

    Returns:
        The speeds of the bundle, by engine; and in the first of these engines, the gain of some points by their share
        of the multiply-accumulates. Both are empty where no engine runs both precisions.
    """
    measured = speeds(bundle, batch)
    if not measured:
        return (), {}
    gains = {found.best.share: measured[0].gain}
    for point in found.points:
        if point.share not in gains and point.chosen and _is_worth_timing(point, found):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                other = int8_bundle(graphs, point.chosen, numbers, Path(folder))
                made = tuple(replace(graph, file=str(Path(folder) / graph.file)) for graph in other.manifest.graphs)
                both = replace(bundle.manifest, graphs=(*fp32_specs(bundle), *made))
                gains[point.share] = speeds(Bundle(bundle.folder, both), batch, [measured[0].engine])[0].gain
    return measured, gains


def log_result(best: Point, measured: Sequence[Speed]) -> None:
    """Log how much became int8 and how fast it is, with a warning for each engine in which it is slower.

    Args:
        best: The layers that became int8.
        measured: The speeds of the bundle, by engine.
    """
    count, share = sum(map(len, best.chosen.values())), 100 * best.share
    log.info("%d layers, %.1f %% of the multiply-accumulates, are int8", count, share)
    for speed in measured:
        gain = f"{speed.engine} runs int8 at {speed.gain:.2f} times the speed of its fastest other precision"
        if speed.gain < 1:
            log.warning("%s: run without `precision` int8 there", gain)
        else:
            log.info("%s", gain)
    if missing := [engine for engine in ENGINES if engine not in {speed.engine for speed in measured}]:
        log.info("not timed, for they are not here or cannot run it: %s", ", ".join(missing))


def _is_worth_timing(point: Point, found: Found) -> bool:
    """Whether a point is the nearest to a fifth, two fifths and so on of the work; these are enough for a curve."""
    shares = sorted({one.share for one in found.points})
    wanted = {min(shares, key=lambda share: abs(share - fifth / 5)) for fifth in range(1, 6)}
    return point.share in wanted
