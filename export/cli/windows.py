"""How ``--input`` and ``--context`` of ``fctl-export`` are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from fctl.runtime.cli.console import usage

from .numbers import number, values

if TYPE_CHECKING:
    from fctl.runtime.tiling.resampling import Resampling

    from ..foreign import ForeignContext

_KEYS = ("window", "scene", "size", "resampling", "scale", "mean", "std")


def patch_input(text: str | None) -> str | None:
    """The input that takes the patch, from ``patch=NAME``; a usage error where it cannot be read."""
    if text is None:
        return None
    patch, equals, name = text.partition("=")
    if patch.strip() != "patch" or not equals or not name.strip():
        raise usage(f"--input: expected patch=NAME, found {text!r}; --context names what other inputs show")
    return name.strip()


def contexts(texts: Sequence[str]) -> tuple[ForeignContext, ...]:
    """Contexts, each from ``NAME=INPUT,key=value,...``; a usage error where one cannot be read."""
    return tuple(_context(text) for text in texts)


def _context(text: str) -> ForeignContext:
    """One context. A part without "=" goes on with the list of values before it."""
    from ..foreign import ForeignContext

    first, *parts = text.split(",")
    name, equals, taken = (part.strip() for part in first.partition("="))
    if not name or not equals or not taken:
        raise usage(f"--context: expected NAME=INPUT or NAME=INPUT,window=PIXELS, found {text!r}")
    found: dict[str, str] = {}
    key = ""
    for part in parts:
        word, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and key in ("mean", "std"):
            found[key] += f",{word}"
            continue
        if not equals or word not in _KEYS:
            raise usage(f"--context {name}: expected {', '.join(f'{one}=' for one in _KEYS)}, found {part!r}")
        if word in found:
            raise usage(f"--context {name}: {word} is given twice")
        key, found[word] = word, value
    window = found.get("window", "global")
    return ForeignContext(
        name=name,
        input=taken,
        window="global" if window == "global" else _pixels(name, "window", window),
        scene=_pixels(name, "scene", found["scene"]) if "scene" in found else None,
        size=_pixels(name, "size", found["size"]) if "size" in found else None,
        resampling=_resampling(name, found.get("resampling", "box")),
        scale=number(f"--context {name}: scale", found["scale"]) if "scale" in found else None,
        mean=values(f"--context {name}: mean", found["mean"]) if "mean" in found else None,
        std=values(f"--context {name}: std", found["std"]) if "std" in found else None,
    )


def _pixels(name: str, key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        expected = "pixels as 1024, or global" if key == "window" else "pixels as 512"
        raise usage(f"--context {name}: {key}: expected {expected}, found {text!r}") from None


def _resampling(name: str, text: str) -> Resampling:
    from fctl.runtime.tiling.resampling import Resampling

    kinds: tuple[Resampling, ...] = get_args(Resampling)
    for kind in kinds:
        if kind == text:
            return kind
    raise usage(f"--context {name}: resampling: expected {' or '.join(kinds)}, found {text!r}")
