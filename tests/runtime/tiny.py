"""The networks of the hand-made bundles in tests/data, in numpy.

Weights are multiples of 1/64 and the poolings are over powers of two, so that every engine's fp32 is exact and equal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny.fctl"
TINY_WIDE = DATA / "tiny_wide.fctl"  # tiny.fctl with tiles of 128 pixels, for larger rasters
TINY_ONCE = DATA / "tiny_once.fctl"  # tiny.fctl without overlap, whose contexts can be encoded once a raster
TINY_GLOBAL = DATA / "tiny_global.fctl"
TINY_PLAIN = DATA / "tiny_plain.fctl"
TINY_FUSED = DATA / "tiny_fused.fctl"  # tiny.fctl in one graph
TINY_GLOBAL_FUSED = DATA / "tiny_global_fused.fctl"  # tiny_global.fctl in one graph
TINY_FIXED = DATA / "tiny_fixed.fctl"  # tiny_plain.fctl in batches of 3 and no other
TINY_FLOAT = DATA / "tiny_float.fctl"  # three bands of float32; scores are NaN where a band is below -1
TINY_SHARES = DATA / "tiny_shares.fctl"  # tiny_plain.fctl with its softmax in the graph
TINY_WHOLE = DATA / "tiny_whole.fctl"  # a mix of the bands of the whole image, shrunk to 24 pixels; sees no patch

# Weights of cells, not symmetric in any way: a context that is not turned with its patch must show.
CELLS = np.array([[4, 1, 0, 2], [1, 2, 0, 0], [3, 0, 1, 0], [1, 0, 1, 0]]) / 16
LINE = np.array([1, 2, 0, 1]) / 4

# Of tiny.fctl and tiny_global.fctl; a matrix is (outputs, inputs).
PATCH = np.array([[5, -3, 2], [-4, 6, 1], [1, -2, 7]]) / 64
BIAS = np.array([3, -5, 7]) / 64
ENCODE_MEDIUM = np.array([[8, 4, -2], [-6, 2, 10]]) / 64
ENCODE_LARGE = np.array([[3, 9, 1], [7, -5, 4]]) / 64
MEDIUM = np.array([[16, -9], [-7, 12], [5, 3]]) / 64
LARGE = np.array([[-11, 20], [13, 6], [2, -17]]) / 64
GLOBAL = np.array([[2, -2, 3], [-5, 4, 4], [2, 1, -4]]) / 64
POSITIONS = np.array([[40, -90], [-70, 30], [20, 110]]) / 64

# Of tiny_whole.fctl.
WHOLE = np.array([[9, -4, 2], [-3, 8, 1], [-2, 1, 10]]) / 64

# Of tiny_plain.fctl.
PLAIN_PATCH = np.array([[3, -1, 2, -4], [-2, 4, -3, 1]]) / 64
PLAIN_MEAN = np.array([[-5, 2, 1, 3], [4, -3, 2, -1]]) / 64
PLAIN_BIAS = np.array([9, -11]) / 64


def mix(weight: Array, images: Array) -> Array:
    """A 1x1 convolution of (N, channels, height, width)."""
    return np.einsum("oc,nchw->nohw", weight, images.astype(np.float64))


def pool(images: Array, factor: int) -> Array:
    """Block means."""
    n, channels, height, width = images.shape
    blocks = images.astype(np.float64).reshape(n, channels, height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(3, 5))


def weigh(images: Array) -> Array:
    """(N, channels, 4, 4) -> weighted means (N, channels, 1, 1)."""
    return (images * CELLS).sum(axis=(2, 3), keepdims=True)


def tiny_logits(patch: Array, medium: Array, large: Array) -> Array:
    """tiny.fctl: the patch, the medium context cell by cell, and a weighted mean of the large context."""
    near = mix(ENCODE_MEDIUM, pool(medium, 4)).repeat(4, axis=2).repeat(4, axis=3)
    far = weigh(mix(ENCODE_LARGE, pool(large, 2)))
    return mix(PATCH, patch) + BIAS[None, :, None, None] + mix(MEDIUM, near) + mix(LARGE, far)


def tiny_global_logits(patch: Array, whole: Array, positions: Array) -> Array:
    """tiny_global.fctl: the patch, and weighted means of the whole image and of the patch's positions in it."""
    place = (positions @ LINE)[:, :, None, None]
    return mix(PATCH, patch) + BIAS[None, :, None, None] + mix(GLOBAL, weigh(pool(whole, 2))) + mix(POSITIONS, place)


def tiny_plain_logits(patch: Array) -> Array:
    """tiny_plain.fctl: the patch, and its mean."""
    mean = patch.mean(axis=(2, 3), keepdims=True)
    return mix(PLAIN_PATCH, patch) + PLAIN_BIAS[None, :, None, None] + mix(PLAIN_MEAN, mean)


def variant(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle in `folder` whose manifest `change` has edited in place."""
    copy = folder / bundle.name
    shutil.copytree(bundle, copy)
    manifest = copy / "manifest.json"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    change(document)
    manifest.write_text(json.dumps(document), encoding="utf-8")
    return copy
