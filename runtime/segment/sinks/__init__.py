"""Outputs of a run, by name: the one place to add another.

They are opened in this order and closed in the reverse one; where several cannot be written, the error names the last.
"""

from __future__ import annotations

from .base import BlockWriter, MaskedRaster, Sink, check_sink, companions_of, memory_of, needs_confidence
from .confidence import ConfidenceSink
from .mask import MaskSink
from .preview import PreviewSink
from .probabilities import ProbabilitiesSink
from .stats import StatsSink
from .vector import VectorSink

_ALL: tuple[Sink, ...] = (
    PreviewSink(), StatsSink(), VectorSink(), ConfidenceSink(), ProbabilitiesSink(), MaskSink(),
)  # fmt: skip
SINKS: dict[str, Sink] = {sink.name: sink for sink in _ALL}

__all__ = [
    "SINKS", "BlockWriter", "MaskedRaster", "Sink", "check_sink", "companions_of", "memory_of", "needs_confidence",
]  # fmt: skip
