"""The one temperature with which probabilities fit labels best (Guo et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tiling.merge import NODATA
from .metrics import IGNORE

TEMPERATURES: NDArray[np.float64] = np.exp(np.linspace(-np.log(10), np.log(10), 93))
"""The temperatures that are tried, from 0.1 to 10 in steps of 5 %; the one in the middle is 1."""

_ONE = len(TEMPERATURES) // 2
_EVERY = 17  # of labelled pixels is looked at: neighbours are alike
_LEAST = 1e-30  # probability that an impossible class is taken to have


@dataclass(frozen=True, slots=True, eq=False)
class TemperatureFit:
    """How well probabilities fit labels at each temperature.

    Attributes:
        losses: Sums of the negative log likelihood of labelled classes, (temperatures,) float64.
        pixels: How many pixels were looked at.
    """

    losses: NDArray[np.float64]
    pixels: int

    @classmethod
    def empty(cls) -> TemperatureFit:
        """No pixels yet."""
        return cls(np.zeros(len(TEMPERATURES)), 0)

    @classmethod
    def of(
        cls, truth: NDArray[np.uint8], probabilities: NDArray[np.float32], table: NDArray[np.uint8]
    ) -> TemperatureFit:
        """Look at one in 17 of the pixels that have a label and data.

        Args:
            truth: Labelled class ids (rows, columns), 255 where there is no label.
            probabilities: Probabilities (classes, rows, columns), NaN where there is no data.
            table: The data set's class id by the bundle's, see `class_ids`.

        Returns:
            What was found. Labels of classes that the bundle does not have count for nothing.
        """
        classes = len(probabilities)
        ours = np.full(256, NODATA, np.uint8)
        ours[table[:classes]] = np.arange(classes)
        wanted = np.where(truth == IGNORE, np.uint8(NODATA), ours[truth])
        places = np.flatnonzero((wanted != NODATA) & np.isfinite(probabilities[0]))[::_EVERY]
        labels = wanted.ravel()[places]
        logs = np.log(np.maximum(probabilities.reshape(classes, -1)[:, places].astype(np.float64), _LEAST))
        losses = np.zeros(len(TEMPERATURES))
        for index, temperature in enumerate(TEMPERATURES):
            powers = logs / temperature
            highest = powers.max(axis=0, initial=-np.inf)
            sums = np.log(np.exp(powers - highest).sum(axis=0)) + highest
            losses[index] = (sums - powers[labels, np.arange(len(labels))]).sum()
        return cls(losses, len(labels))

    def __add__(self, other: TemperatureFit) -> TemperatureFit:
        return TemperatureFit(self.losses + other.losses, self.pixels + other.pixels)

    @property
    def before(self) -> float:
        """The mean loss at temperature 1, which is that of the probabilities as they are; NaN without pixels."""
        return float(self.losses[_ONE]) / self.pixels if self.pixels else float("nan")

    def best(self) -> tuple[float, float]:
        """The temperature with the least loss, and its mean loss; NaN without pixels.

        It is the lowest point of a parabola through the best of the temperatures that were tried and its neighbours.
        """
        if not self.pixels:
            return float("nan"), float("nan")
        index = int(self.losses.argmin())
        lowest = float(self.losses[index])
        if index in (0, len(TEMPERATURES) - 1):
            return float(TEMPERATURES[index]), lowest / self.pixels
        left, right = float(self.losses[index - 1]) - lowest, float(self.losses[index + 1]) - lowest
        shift = (left - right) / (2 * (left + right)) if left + right > 0 else 0.0
        step = float(np.log(TEMPERATURES[1] / TEMPERATURES[0]))
        return float(TEMPERATURES[index] * np.exp(shift * step)), (lowest - shift * (left - right) / 4) / self.pixels
