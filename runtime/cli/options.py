"""Options that several commands have, and how lists with commas are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer

from ..choices import BatchChoice
from .console import usage

if TYPE_CHECKING:
    from pathlib import Path

    from ..segment.where import Where

_Word = TypeVar("_Word", bound=str)

Bands = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Bands to use, from 1, in the bundle's order, as 3,2,1. Default: by colour."),
]
ScaleRange = Annotated[
    str | None,
    typer.Option(
        metavar="RANGE",
        help="Values that become the darkest and the brightest of an image of another depth: MIN,MAX as in 0,3000, "
        "percentile:2,98, or metadata for the file's scale and offset. Default: none, the depth must fit.",
    ),
]
Resolution = Annotated[
    str,
    typer.Option(
        metavar="METRES",
        help="Ground distance of pixels at which the network works: metres, native for the image's own, or auto for "
        "that of its training images, where the bundle states it and the image's is another. Outputs keep the image's.",
    ),
]
Colours = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Colours of classes by name, as water=#2060c0,road=grey."),
]
Batch = Annotated[int, typer.Option(min=1, help="Tiles per run of the engine.")]
BatchOrAuto = Annotated[
    str,
    typer.Option(
        metavar="N|auto", help="Tiles per run of the engine. auto: the fastest here, by a trial that is kept (seconds)."
    ),
]
BuildEngines = Annotated[
    bool,
    typer.Option("--build-engines", help="TensorRT: build engines that are missing, which takes minutes."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


@dataclass(frozen=True, kw_only=True)
class How:
    """What is read of images, once it was parsed.

    Attributes:
        bands: Numbers of the bands to use, or None.
        scale_range: Which values become the lowest and the highest of the network's, or None.
        resolution: At which distance from pixel to pixel the network works.
        where: Which part is wanted.
        coarse: The mask of the one image, where it is refined; or None.
    """

    bands: tuple[int, ...] | None
    scale_range: str | None
    resolution: str
    where: Where
    coarse: Path | None = None


def one_of(choices: object) -> str:
    """The values of a Literal for a help text, with commas between them."""
    return ", ".join(get_args(choices))


def numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """Numbers from 1, with commas between them.

    Args:
        option: The option, for the error message.
        text: Its value.
        example: A value that would do, for the error message.

    Returns:
        The numbers, as many as were given.

    Raises:
        typer.BadParameter: The text is anything else.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise usage(f"{option}: expected numbers from 1 as in {example}, found {text!r}")
    return found


def batch_size(text: str) -> BatchChoice:
    """The value of ``--batch``: a number from 1, or "auto"."""
    if text == "auto":
        return "auto"
    found = numbers("--batch", text, "4, or auto")
    if len(found) > 1:
        raise usage(f"--batch: expected one number as in 4, or auto, found {text!r}")
    return found[0]


def band_numbers(text: str | None) -> tuple[int, ...] | None:
    """The value of ``--bands``: numbers of bands, or None where all are used."""
    return None if text is None else numbers("--bands", text, "3,2,1")


def listed(option: str, text: str, known: tuple[_Word, ...]) -> tuple[_Word, ...]:
    """Words that an option knows, with commas between them.

    Args:
        option: The option, for the error message.
        text: Its value.
        known: All the words that it knows.

    Returns:
        The words, each once.

    Raises:
        typer.BadParameter: One of them is not known.
    """
    found = []
    for word in dict.fromkeys(text.split(",")):
        if word not in known:
            raise usage(f"{option}: expected {' or '.join(known)}, found {word!r}")
        found.append(known[known.index(word)])
    return tuple(found)


def pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    """Names and values with ``=`` between them.

    Args:
        option: The option, for the error message.
        texts: Its values; empty ones count for nothing.

    Returns:
        Names and values, in the order given.

    Raises:
        typer.BadParameter: A text is anything else.
    """
    found = []
    for text in filter(None, map(str.strip, texts)):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise usage(f"{option}: expected NAME=VALUE, found {text!r}")
        found.append((name, value))
    return found


def class_colours(text: str | None) -> dict[str, tuple[int, int, int]]:
    """The value of ``--colours``: red, green and blue by the name of a class."""
    return {name: _colour(value) for name, value in pairs("--colours", (text or "").split(","))}


def _colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as #2060c0 or grey."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise usage(f"--colours: expected a colour such as #2060c0 or grey, found {text!r}") from None
    return red, green, blue
