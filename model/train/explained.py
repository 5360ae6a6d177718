"""A configuration as JSON text in which every field comes with its meaning."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass

from fctl.runtime.bundle.records import encode

from .config import COMMENT

_WORDS = {"None": "null", "True": "true", "False": "false"}


def explained(record: object) -> object:
    """The plain values of a configuration, each field after a comment that says what it means.

    Args:
        record: A record of `settings`, or what one of its fields holds.

    Returns:
        The same as dictionaries, lists and scalars, complete. Comments are keys that begin with ``//``. In a list, only
        the first item has them.
    """
    if isinstance(record, tuple) and record:
        return [explained(record[0]), *(encode(item, complete=True) for item in record[1:])]
    if not is_dataclass(record) or isinstance(record, type):
        return encode(record, complete=True)
    said, told = meanings(type(record)), dict[str, object]()
    for one in fields(record):
        told[f"{COMMENT} {one.name}"] = said[one.name]
        told[one.name] = explained(getattr(record, one.name))
    return told


def meanings(kind: type) -> dict[str, str]:
    """What the fields of a record mean.

    Args:
        kind: The record, whose docstring has a section "Attributes".

    Returns:
        By field, one line in the words of JSON.
    """
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: _in_json(" ".join(text.split())) for name, text in entries}


def _in_json(text: str) -> str:
    """A meaning as people read it who know neither Python nor this code, with quotes that JSON need not escape."""
    plain = re.sub(r" \(§[\d.]+\)", "", text).replace("`", "")
    worded = re.sub(r"\b(None|True|False)\b", lambda found: _WORDS[found[1]], plain)
    return re.sub(r'\{.*?\}|"', lambda found: "'" if found[0] == '"' else found[0], worded)
