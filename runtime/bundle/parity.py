"""What a bundle knows of its graphs: how those of each precision compare with their reference, class by class."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import choices
from .records import OPTIONAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEffect:
    """How much a context matters: it was replaced by another patch's.

    Attributes:
        name: The context.
        change: max |change of the logits| / max |logit|.
    """

    name: str
    change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassIou:
    """How well one class keeps its pixels.

    Attributes:
        name: The class.
        share: Proportion of the pixels to which the reference gives it, from 0 to 1.
        iou: Intersection over union of its pixels here and in the reference, from 0 to 1.
    """

    name: str
    share: float
    iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Graphs of one precision, compared with a reference on real patches.

    Attributes:
        precision: Precision of the graphs.
        reference: What they were compared with.
        patches: Number of patches.
        source: Where the patches come from.
        classes: Classes that were predicted there.
        max_error: max |difference| / max |logit|.
        agreement: Proportion of the pixels with the same class, from 0 to 1.
        original_agreement: The same against the checkpoint before its weights were rounded; None if they were not.
        contexts: How much each context matters.
        class_iou: The classes that either side predicts; empty in bundles before 1.1.
    """

    precision: choices.Precision
    reference: str
    patches: int
    source: str
    classes: tuple[str, ...]
    max_error: float
    agreement: float
    original_agreement: float | None
    contexts: tuple[ContextEffect, ...]
    class_iou: tuple[ClassIou, ...] = field(default=(), metadata=OPTIONAL)
