"""What options can be set to, as types.

They have a module of their own because command lines show them in ``--help``, which loads neither numpy nor an engine.
The rooms that give them their meaning offer them under the same names.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]
"""What the graphs of a bundle compute in."""

RunPrecision = Literal["fp32", "bf16", "fp16", "int8"]
"""What a run computes in: bf16 is how an engine runs fp32 graphs."""

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""What a run is asked to compute in; "auto" is the fastest that the bundle was validated for."""

BatchChoice = int | Literal["auto"]
"""How many patches are run at once; "auto" is the number with which this machine is fastest."""

Backend = Literal[
    "auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino", "onnxruntime", "onnxruntime-tensorrt"
]
"""The engine that runs; "auto" is the fastest that is installed and ready."""

Form = Literal["auto", "deepglobe", "inria", "release", "folder"]
"""How a labelled data set lies on disk; "auto" tells it by the files."""

ContextMode = Literal["all", "none", "each"]
"""Which contexts the runs of an evaluation show: all, none, or all but one for each of them."""

ContextEncoding = Literal["auto", "exact", "shared"]
"""How contexts are encoded: once for each patch, once for the whole raster, or the latter where that was validated."""

Order = Literal["worst", "best", "first"]
"""Which images an evaluation draws."""

LogLevel = Literal["debug", "info", "warning", "error"]
"""What a command line logs at least."""

StreamPolicy = Literal["block", "drop-oldest"]
"""What happens to a frame for which there is no room: it waits, or the frame that has waited longest is dropped."""

OnBadBlock = Literal["fail", "nodata"]
"""What becomes of a block of an image that cannot be read: an error, or pixels without data."""

ProbabilityType = Literal["uint8", "float32"]
"""How probabilities are written: as whole numbers of 254ths, or as they are."""

ConfidenceType = Literal["probability", "agreement"]
"""What the confidence of a pixel is: its highest probability, or the share of overlapping tiles that say the same."""
