"""What an export can be told, as types: a module of its own, so that ``--help`` finds them without loading onnx."""

from __future__ import annotations

from typing import Literal

from fctl.calib.choices import Method

Format = Literal["onnx", "trt", "triton"]
"""What is made: a bundle, a bundle's TensorRT engines, or a model repository for Triton."""

Graph = Literal["staged", "fused"]
"""One graph for each context's encoder and one for the segmenter, or all in one."""

Weights = Literal["fp32", "fp16"]
"""How weights are stored."""

Activation = Literal["auto", "logits", "softmax", "sigmoid", "labels"]
"""What a network of one's own gives; "auto" looks at its scores, and asks where they leave it open."""

Crop = Literal["auto", "none", "valid"]
"""What scores smaller than the tile show: all of it at a coarser grid, or only its middle at full size."""

Layout = Literal["nchw", "nhwc"]
"""Order of the axes of an image."""

Ranges = Literal["auto", Method]
"""How activations are ranged for int8; "auto" is the method that keeps most pixels."""
