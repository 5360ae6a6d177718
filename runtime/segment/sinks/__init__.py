"""Outputs of a run, by name: the one place to add another.

They are opened in this order and closed in the reverse one; where several cannot be written, the error names the last.
"""

from __future__ import annotations

from .base import BlockWriter, MaskedRaster, Sink
from .mask import MaskSink
from .preview import PreviewSink
from .probabilities import ProbabilitiesSink

SINKS: dict[str, Sink] = {sink.name: sink for sink in (PreviewSink(), ProbabilitiesSink(), MaskSink())}

__all__ = ["SINKS", "BlockWriter", "MaskedRaster", "Sink"]
