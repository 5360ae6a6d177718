"""Calibration of int8: ranges of activations, and corrections of biases where these help."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fctl.calib.choose import Chosen, cut_patches
from fctl.calib.correct import corrections
from fctl.calib.ranges import METHODS, Method, amax
from fctl.calib.trials import Fp32Graphs, Numbers, Trials
from fctl.calib.watch import histograms, peaks
from fctl.runtime.progress import StageProgress
from fctl.runtime.segment.batches import PatchBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The numbers that int8 layers need, and how they were found.

    Attributes:
        numbers: Ranges and biases.
        method: The method of the ranges, one of `calib.ranges.METHODS`.
        corrected: Whether biases are corrected.
        agreements: The fraction of the pixels that keep their class with all layers in int8, by what was tried.
    """

    numbers: Numbers
    method: str
    corrected: bool
    agreements: Mapping[str, float]


def calibrate(
    graphs: Fp32Graphs,
    trials: Trials,
    patches: Sequence[Chosen],
    ranges: Method | Literal["auto"],
    progress: StageProgress | None = None,
) -> Calibration:
    """Find ranges and biases of all layers that may be int8.

    Args:
        graphs: The fp32 graphs of a bundle.
        trials: Other patches, which show how well the numbers do.
        patches: The patches that calibrate.
        ranges: The method of the ranges, or "auto" for the one with which most pixels keep their class.
        progress: Called with every patch that was run.

    Returns:
        The numbers with which most pixels keep their class.

    Raises:
        BundleError: A graph computes infinity or NaN.
        RasterError: An image cannot be read.
    """
    agreements: dict[str, float] = {}
    candidates: dict[str, Numbers] = {}
    for method, numbers in _by_method(graphs, patches, ranges, progress):
        candidates[method], agreements[method] = numbers, trials.agreement(graphs.names, numbers)
        log.info(
            "all layers in int8, ranges by %s: %.3f %% of the pixels keep their class", method, 100 * agreements[method]
        )
    best = max(agreements, key=lambda name: agreements[name])
    numbers = candidates[best]
    biases = corrections(graphs, numbers.amax, _cut(graphs, patches, "bias correction", progress))
    corrected = replace(numbers, biases=biases)
    name = f"{best}, bias correction"
    agreements[name] = trials.agreement(graphs.names, corrected)
    log.info("with bias correction: %.3f %%", 100 * agreements[name])
    helps = agreements[name] > agreements[best]
    return Calibration(numbers=corrected if helps else numbers, method=best, corrected=helps, agreements=agreements)


def _by_method(
    graphs: Fp32Graphs, patches: Sequence[Chosen], ranges: Method | Literal["auto"], progress: StageProgress | None
) -> Iterator[tuple[Method, Numbers]]:
    """Ranges of all activations that layers read, by each method that is asked for."""
    tensors = {role: sorted({layer.input for layer in layers}) for role, layers in graphs.layers.items()}
    largest = peaks(graphs.bundle, _cut(graphs, patches, "largest values", progress), inputs=True)
    counted = histograms(graphs.bundle, _cut(graphs, patches, "histograms", progress), largest, tensors)
    for method in METHODS if ranges == "auto" else (ranges,):
        found = {
            role: {name: amax(histogram, method, name=f"{role}: {name}") for name, histogram in by_name.items()}
            for role, by_name in counted.items()
        }
        yield method, Numbers(amax=found, biases={})


def _cut(
    graphs: Fp32Graphs, patches: Sequence[Chosen], name: str, progress: StageProgress | None
) -> Iterator[PatchBatch]:
    """Patches with their contexts, one per batch; reports progress as a stage of this name."""
    for index, batch in enumerate(cut_patches(graphs.bundle.manifest, patches)):
        yield batch
        if progress:
            progress(name, index + 1, len(patches))
