"""Which inputs of a foreign network take the patch and its contexts, and what images these are."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper

from fctl.runtime.bundle.manifest import DTYPES
from fctl.runtime.errors import CheckpointError, InputError

from ..choices import Layout
from .options import ForeignContext, ForeignOptions, ImageInput
from .wrap import PATCH, SURROUND

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_LARGEST = 1 << 16  # pixels a side of a window, as bundles have it
_LARGEST_SCENE = 1 << 20
_FEW_BANDS = 16  # a side of an image is longer


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a graph takes.

    Attributes:
        images: The images, the patch first.
        raw: The dtype of the rasters.
        bands: Their bands.
        batch: The batch of all inputs; None where it is open.
    """

    images: tuple[ImageInput, ...]
    raw: str
    bands: int
    batch: int | None


def find_inputs(model: onnx.ModelProto, origin: str, options: ForeignOptions) -> Inputs:
    """Find out which images a graph takes.

    Args:
        model: The graph; open sides of its inputs are fixed in place.
        origin: The name of the graph in error messages.
        options: What the user states about the network.

    Returns:
        What it takes.

    Raises:
        CheckpointError: An input is no image.
        InputError: An option does not fit the graph, or does not say what an input shows.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in constants}
    named = named_inputs(list(inputs), origin, options)
    values = [inputs[name] for name in named]
    for value in values:
        _check_image(value, origin)
    bands = options.bands or next(filter(None, (_axes(value, options.layout)[0] for value in values)), 3)
    tile = options.tile or next(filter(None, _axes(values[0], options.layout)[1:]), None)
    if tile is None:
        raise InputError("takes images of any size: give the side of a tile with `tile`", subject=origin)
    images, contexts = [], (None, *options.contexts)
    for value, context in zip(values, contexts, strict=True):
        side = _size(context, tile, value, options.layout) if context else tile
        _settle_sides(value, bands, side, origin, options.layout, context)
        if context:
            _check_window(context, tile)
        images.append(_image(value, side, options, context))
    raw = _raw_dtype(values, origin, options)
    return Inputs(images=tuple(images), raw=raw, bands=bands, batch=_batch(values, origin))


def named_inputs(names: Sequence[str], origin: str, options: ForeignOptions, others: Sequence[str] = ()) -> list[str]:
    """The inputs that take the patch and the contexts.

    Args:
        names: The inputs of the network.
        origin: The name of the network in error messages.
        options: What the user states about it.
        others: Inputs that it does not need.

    Returns:
        The input of the patch, then that of each context.

    Raises:
        CheckpointError: The network has no input.
        InputError: An input is not there, is named twice, or nobody says what it shows; or a context contradicts
            itself.
    """
    _check_contexts(options.contexts)
    given = [("`input` patch", options.input)] if options.input is not None else []
    given += [(f"`context` {context.name}", context.input) for context in options.contexts]
    taken: dict[str, str] = {}
    for what, name in given:
        if name not in (*names, *others):
            known = ", ".join((*names, *others)) or "none with a name"
            raise InputError(f"{origin} has no input {name!r}; it has {known}", subject=what)
        if name in taken:
            raise InputError(f"the input {name!r} is that of {taken[name]} already", subject=what)
        taken[name] = what
    if not names and not others:
        raise CheckpointError(subject=origin, expected="one input, an image", found="none")
    left = [name for name in names if name not in taken]
    patch = options.input if options.input is not None else next(iter(left), None)
    if patch is None:
        raise InputError("no input is left for the patch: give `input` patch=NAME", subject=origin)
    if rest := [name for name in left if name != patch]:
        raise _unsaid(names, patch, rest, origin, options)
    return [patch, *(context.input for context in options.contexts)]


def _unsaid(names: Sequence[str], patch: str, rest: Sequence[str], origin: str, options: ForeignOptions) -> InputError:
    """The error of inputs of which nobody says what they show, with the command that would say it."""
    said = [
        f"{context.name}={context.input}" + ("" if context.window == "global" else f",window={context.window}")
        for context in options.contexts
    ]
    unsaid = [f"NAME={name},window=PIXELS" for name in rest]
    command = " ".join([f"`input` patch={patch}", *(f"`context` {one}" for one in (*said, *unsaid))])
    return InputError(
        subject=origin,
        expected="one input, an image, or contexts that take the others",
        found=f"{len(names)} ({', '.join(names)})",
        remedy=f"say what each of them shows, as in {command} (without window: the whole raster), or make it a "
        "constant before you export",
    )


def _check_contexts(contexts: Sequence[ForeignContext]) -> None:
    """Raise InputError for contexts that fit no network."""
    for name, count in Counter(context.name for context in contexts).items():
        if not _NAME.fullmatch(name):
            raise InputError(subject="`context`", expected="a name of letters, digits and _", found=repr(name))
        if name in (PATCH, SURROUND):
            remedy = "give `input` patch=NAME" if name == PATCH else "choose another"
            raise InputError(f"a context cannot be called {name}", subject="`context`", remedy=remedy)
        if count > 1:
            raise InputError(subject="`context`", expected="distinct names", found=f"{name} {count} times")
    for context in contexts:
        window, subject = context.window, f"`context` {context.name}"
        for what, value, most in (
            ("window", window, _LARGEST), ("size", context.size, _LARGEST), ("scene", context.scene, _LARGEST_SCENE)
        ):  # fmt: skip
            if isinstance(value, int) and not 1 <= value <= most:
                raise InputError(subject=subject, expected=f"a {what} of 1 to {most} pixels", found=value)
        if context.scene is not None and window != "global":
            raise InputError("scene is for a context that shows the whole raster: leave it out", subject=subject)


def _check_window(context: ForeignContext, tile: int) -> None:
    """Raise InputError for a window that cannot lie around a tile."""
    window, subject = context.window, f"`context` {context.name}"
    if window == "global":
        if context.scene is not None and context.scene <= tile:
            expected = f"a scene of more than the tile's {tile} pixels"
            raise InputError(subject=subject, expected=expected, found=context.scene)
        return
    if window < tile:
        raise InputError(subject=subject, expected=f"a window of the tile's {tile} pixels or more", found=window)
    if (window - tile) % 2:
        raise InputError(
            subject=subject,
            expected=f"a window that leaves whole pixels on either side of the tile's {tile}",
            found=window,
            remedy=f"give window={window - 1} or {window + 1}",
        )


def _check_image(value: onnx.ValueInfoProto, origin: str) -> None:
    """Raise CheckpointError for an input that is no image."""
    if not value.type.tensor_type.elem_type:
        found = "no type of its elements"
        raise CheckpointError(subject=origin, expected=f"a tensor as input {value.name!r}", found=found)
    if (rank := len(value.type.tensor_type.shape.dim)) != 4:
        expected = f"an image of 4 axes as input {value.name!r}"
        raise CheckpointError(subject=origin, expected=expected, found=f"{rank} axes")


def _axes(value: onnx.ValueInfoProto, layout: Layout) -> tuple[int, int, int]:
    """Channels, rows and columns of an input, 0 where they are open."""
    first, second, third = (axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])
    return (first, second, third) if layout == "nchw" else (third, first, second)


def _size(context: ForeignContext, tile: int, value: onnx.ValueInfoProto, layout: Layout) -> int:
    """The side of a context's image: what is stated, what the graph says, or the tile's."""
    return context.size or next(filter(None, _axes(value, layout)[1:]), tile)


def _settle_sides(
    value: onnx.ValueInfoProto, bands: int, side: int, origin: str, layout: Layout, context: ForeignContext | None
) -> None:
    """Write bands and side into an input's open axes, in place."""
    axes = value.type.tensor_type.shape.dim
    found, wanted = _axes(value, layout), (bands, side, side)
    if any(one not in (0, other) for one, other in zip(found, wanted, strict=True)):
        remedy = _shape_remedy([axis.dim_value for axis in axes[1:]], layout)
        if context:
            sized = context.size is not None and found[0] in (0, bands)
            remedy = f"{'leave size out of' if sized else 'see `bands`, `layout` and'} `context` {context.name}"
        raise InputError(
            subject=origin,
            expected=f"input {value.name!r} of {bands} bands x {side} x {side} in {layout}",
            found=" x ".join(str(axis or "any") for axis in found),
            remedy=remedy,
        )
    for axis, length in zip(axes[1:], wanted if layout == "nchw" else (side, side, bands), strict=True):
        axis.dim_value = length


def _shape_remedy(sides: list[int], layout: Layout) -> str:
    """What to do about an image whose sides without the batch are these, 0 where they are open."""
    likely: Layout = "nhwc" if sides[0] == sides[1] else "nchw"
    if len(set(sides)) == 2 and likely != layout and all(sides):
        return f"give `layout` {likely}"
    height, width = sides[1:] if layout == "nchw" else sides[:2]
    if height and width and height != width and min(height, width) > _FEW_BANDS:
        return "tiles are square: export the network for a square image, or with open sides and give `tile`"
    return "see `tile`, `bands` and `layout`"


def _batch(values: Sequence[onnx.ValueInfoProto], origin: str) -> int | None:
    """The batch of all inputs: the fixed one, where there is one."""
    axes = [value.type.tensor_type.shape.dim[0] for value in values]
    fixed = sorted({axis.dim_value for axis in axes if axis.HasField("dim_value") and axis.dim_value > 0})
    if len(fixed) > 1:
        raise CheckpointError(subject=origin, expected="inputs of one batch", found=" and ".join(map(str, fixed)))
    if fixed and any(not axis.dim_value for axis in axes):
        log.warning("%s has inputs of an open batch and of %d: the bundle's is fixed to %d", origin, *fixed, *fixed)
    return fixed[0] if fixed else None


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[np.generic]:
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def _image(
    value: onnx.ValueInfoProto, side: int, options: ForeignOptions, context: ForeignContext | None
) -> ImageInput:
    """An image with the scaling in front of it: the context's own, else the patch's; none before integers."""
    scale, mean, std = options.scale, options.mean, options.std
    if context:
        scale = scale if context.scale is None else context.scale
        mean = mean if context.mean is None else context.mean
        std = std if context.std is None else context.std
    dtype = _dtype(value)
    if dtype.kind != "f":
        scale, mean, std = 1.0, (0.0,), (1.0,)
    return ImageInput(
        name=value.name, side=side, dtype=dtype, scale=scale, mean=mean, std=std, context=context
    )  # fmt: skip


def _raw_dtype(values: Sequence[onnx.ValueInfoProto], origin: str, options: ForeignOptions) -> str:
    """The dtype of the rasters."""
    dtypes = [_dtype(value) for value in values]
    whole = list(dict.fromkeys(dtype.name for dtype in dtypes if dtype not in (np.float32, np.float16)))
    for name in whole:
        if name not in DTYPES:
            expected = f"an image of {', '.join(DTYPES)} or float16"
            raise CheckpointError(subject=origin, expected=expected, found=name)
    if len(whole) > 1:
        raise CheckpointError(subject=origin, expected="images of one dtype", found=" and ".join(whole))
    raw = options.dtype or (whole[0] if whole else "uint8")
    if raw not in DTYPES:
        raise InputError(subject="`dtype`", expected=", ".join(DTYPES), found=repr(raw))
    scaled = [(options.scale, set(options.mean), set(options.std)) != (1.0, {0.0}, {1.0})]
    scaled += [any(one is not None for one in (c.scale, c.mean, c.std)) for c in options.contexts]
    if whole and (raw != whole[0] or any(
        dtype.kind != "f" and given for dtype, given in zip(dtypes, scaled, strict=True)
    )):  # fmt: skip
        raise InputError(
            f"takes raw {whole[0]} and scales by itself: leave out `scale`, `mean`, `std`, `dtype`", subject=origin
        )
    return raw
