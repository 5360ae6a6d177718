"""How numbers in options of ``fctl-export`` are read."""

from __future__ import annotations

from fctl.runtime.cli.console import usage


def number(option: str, text: str) -> float:
    """One number, as 0.00392157 or 1/255; a usage error where it cannot be read."""
    try:
        return _quotient(text)
    except ValueError:
        raise usage(f"{option}: expected a number as 0.00392157 or 1/255, found {text!r}") from None


def values(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them; a usage error where they cannot be read."""
    try:
        return tuple(_quotient(part) for part in text.split(","))
    except ValueError:
        raise usage(f"{option}: expected numbers as in 0.485,0.456,0.406, found {text!r}") from None


def _quotient(text: str) -> float:
    """A number, or one over another as in 1/255."""
    over, line, under = text.partition("/")
    if not line:
        return float(text)
    if not float(under):
        raise ValueError(text)
    return float(over) / float(under)
