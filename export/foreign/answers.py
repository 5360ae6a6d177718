"""What a foreign network's scores are, told by the scores themselves: logits, probabilities or class ids."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import get_args

import numpy as np

from fctl.runtime.errors import InputError

from ..choices import Activation, Layout
from .options import Array, Contract, ForeignOptions, channels_of

log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # by which probabilities may lie outside 0 to 1
_SUM_ROUNDING = 1e-2  # by which their sum over the classes may differ from 1: they may be fp16
_WHOLE = 0.01  # by which class ids may differ from whole numbers


@dataclass(frozen=True)
class _Seen:
    """What the scores of the gate's patches show.

    Attributes:
        kind: What they are; None where that is open.
        text: The same in words, for errors.
        fitting: The activations that they could belong to.
    """

    kind: Activation | None
    text: str
    fitting: tuple[Activation, ...]


def scores_layout(shape: tuple[int, ...], options: ForeignOptions) -> Layout:
    """The order of the axes of scores: the image's, unless only the other one fits the classes.

    Args:
        shape: The shape of the output, without the batch.
        options: What the user states about the network.

    Returns:
        The layout.
    """
    if len(shape) != 3:
        return options.layout
    fits = [
        layout
        for layout in get_args(Layout)
        if channels_of(shape, layout) in _counts(options) and len(set(_sides(shape, layout))) == 1
    ]
    return fits[0] if len(fits) == 1 else options.layout


def settled(outputs: Array, contract: Contract, options: ForeignOptions, origin: str) -> Activation:
    """Tell what a network gives from its output for the gate's patches, and check what the user states about it.

    Args:
        outputs: The output (N, ...) for real patches, as the network gives it.
        contract: What was found out about the network.
        options: What the user states about it.
        origin: The name of the network in error messages.

    Returns:
        The activation, which is not "auto".

    Raises:
        InputError: The output belongs to another activation than the one stated, or it leaves open to which.
    """
    stated = options.activation
    seen = _seen(outputs, contract, options, origin)
    if stated == "auto":
        if seen.kind is None:
            choices = " or ".join(seen.fitting)
            raise InputError(f"its scores are {seen.text}", subject=origin, remedy=f"give `activation` {choices}")
        return seen.kind
    if stated not in seen.fitting:
        raise InputError(
            subject=f"{origin}: `activation` {stated}",
            expected=_WANTED[stated],
            found=seen.text,
            remedy=f"give `activation` {seen.fitting[0]}",
        )
    if seen.kind is None and seen.fitting == ("logits",):
        log.warning("%s: its scores are %s", origin, seen.text)
    return stated


_WANTED = {
    "logits": "scores that may have any value",
    "softmax": "probabilities from 0 to 1 that sum to 1 over the classes",
    "sigmoid": "probabilities from 0 to 1",
    "labels": "class ids, which are whole numbers",
}


def check_scores(contract: Contract, options: ForeignOptions, origin: str) -> None:
    """Check that the shape of an output suits the classes and the activation.

    Args:
        contract: What was found out about the network.
        options: What the user states about it; the activation may be "auto" still.
        origin: The name of the network in error messages.

    Raises:
        InputError: It does not.
    """
    shape, activation = contract.scores, options.activation
    layout = contract.scores_layout
    as_labels, as_scores = _fits_labels(shape, contract), _fits_scores(shape, contract, options)
    if {"auto": as_labels or as_scores, "labels": as_labels}.get(activation, as_scores):
        return
    count = len(options.classes)
    axes = f"{count}{' or 1' if 1 in _counts(options) else ''}"
    name = "scores" if activation == "auto" else activation
    expected = f"{name} (N, {axes}, h, w)" if layout == "nchw" else f"{name} (N, h, w, {axes})"
    if activation == "labels":
        expected = f"class ids (N, {contract.tile}, {contract.tile})"
    remedy = "see `classes`, `activation` and `layout`"
    if len(shape) == 2 and count == 2:
        remedy = "keep the axis of the channel, (N, 1, h, w), where the network squeezes it"
    elif len(shape) == 3 and channels_of(shape, layout) in _counts(options):
        remedy = f"scores are for a square tile and no larger than its {contract.tile} pixels"
    raise InputError(
        subject=origin,
        expected=f"{expected} for {count} `classes`",
        found=f"(N, {', '.join(map(str, shape))})",
        remedy=remedy,
    )


def _seen(outputs: Array, contract: Contract, options: ForeignOptions, origin: str) -> _Seen:
    """What the output for the gate's patches shows."""
    values = outputs.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise InputError("its output has no finite number for real patches", subject=origin, remedy="see `scale`")
    low, high = float(finite.min()), float(finite.max())
    text, inside = f"values from {low:.4g} to {high:.4g}", low >= -_ROUNDING and high <= 1 + _ROUNDING
    whole = bool(np.abs(finite - np.rint(finite)).max() <= _WHOLE)
    if not _fits_scores(contract.scores, contract, options):
        if not whole:
            remedy = "scores need an axis for the classes: (N, classes, h, w), or (N, 1, h, w) of two"
            raise InputError(subject=origin, expected="class ids, whole numbers", found=text, remedy=remedy)
        return _Seen("labels", text, ("labels",))
    axis = 1 if contract.scores_layout == "nchw" else -1
    if outputs.shape[axis] == 1:
        if whole and (outputs.dtype.kind != "f" or (not inside and 0 <= low <= high < len(options.classes))):
            return _Seen("labels", f"{text}, whole numbers", ("labels", "sigmoid") if inside else ("labels",))
        if inside:
            return _Seen("sigmoid", text, ("sigmoid", "labels") if whole else ("sigmoid",))
        never = f"{text}, never below 0: as logits, every pixel is {options.classes[1]!r}"
        return _Seen("logits", text, ("logits",)) if low < 0 else _Seen(None, never, ("logits",))
    if not inside:
        return _Seen("logits", text, ("logits",))
    sums = values.sum(axis)
    if np.abs(sums - 1).max() <= _SUM_ROUNDING:
        return _Seen("softmax", f"{text} that sum to 1 over the classes", ("softmax", "sigmoid"))
    found = f"{text} that sum to {float(sums.min()):.4g} to {float(sums.max()):.4g} over the classes"
    return _Seen(None, found, ("sigmoid", "logits"))


def _counts(options: ForeignOptions) -> tuple[int, ...]:
    """How many channels scores may have: one for each class, or one for two classes."""
    count = len(options.classes)
    single = count == 2 and options.activation != "softmax"
    return (count, 1) if single else (count,)


def _fits_labels(shape: tuple[int, ...], contract: Contract) -> bool:
    """Whether a shape suits class ids."""
    plane = [side for side in shape if side > 1] if len(shape) == 3 else list(shape)
    return len(shape) in (2, 3) and len(plane) == 2 and plane[0] == plane[1] <= contract.tile


def _fits_scores(shape: tuple[int, ...], contract: Contract, options: ForeignOptions) -> bool:
    """Whether a shape suits scores."""
    if len(shape) != 3 or channels_of(shape, contract.scores_layout) not in _counts(options):
        return False
    first, second = _sides(shape, contract.scores_layout)
    return first == second <= contract.tile


def _sides(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The sides of an output of a shape without the batch."""
    return shape[1:] if layout == "nchw" else shape[:-1]
