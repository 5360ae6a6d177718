"""Probabilities made surer or less sure, all by one number (temperature scaling, Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COOLEST, HOTTEST = 0.01, 100.0
"""Between which temperatures a bundle may have one."""


def tempered(probabilities: NDArray[np.float32], temperature: float | None) -> NDArray[np.float32]:
    """Probabilities to the power of 1 / temperature, so scaled that they sum to 1 again.

    Of logits, that is the softmax of logits / temperature. The order of the classes stays.

    Args:
        probabilities: Probabilities (classes, rows, columns) float32, after overlapping tiles were averaged.
        temperature: Above 1 makes them less sure, below 1 surer; None or 1 leaves them as they are.

    Returns:
        Probabilities of the same shape; NaN stays NaN.
    """
    if temperature is None or temperature == 1:
        return probabilities
    with np.errstate(divide="ignore"):  # the logarithm of 0, which becomes 0 again
        powers = np.log(probabilities)
    powers -= powers.max(axis=0)
    powers /= np.float32(temperature)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return powers
