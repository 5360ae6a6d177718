"""Frozen dataclasses to plain JSON values and back, strictly.

Nothing is filled in and nothing is skipped: a missing key, an unknown key or a value of another type is an error
that names the field, what was expected and what was found.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class RecordError(ValueError):
    """A value that does not fit its field."""


def encode(record: Any) -> Any:
    """A dataclass, nested at will, as dicts, lists and scalars."""
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: encode(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, (list, tuple)):
        return [encode(item) for item in record]
    if isinstance(record, dict):
        return {key: encode(value) for key, value in record.items()}
    return record


def decode(kind: type[T], value: Any, path: str = "") -> T:
    """The dataclass `kind` from plain values. Raises RecordError."""
    decoded: T = _decode(kind, value, path)
    return decoded


def _decode(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _record(kind, value, path)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(kind), value, path)
    if origin is Literal:
        choices = typing.get_args(kind)
        return _expect(value in choices, value, " or ".join(repr(choice) for choice in choices), path)
    if origin is tuple:
        return _tuple(typing.get_args(kind), value, path)
    if origin is dict:
        _expect(isinstance(value, dict), value, "an object", path)
        return {key: _decode(typing.get_args(kind)[1], item, _join(path, key)) for key, item in value.items()}
    return _scalar(kind, value, path)


def _record(kind: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), value, "an object", path)
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for key in value:
        if key not in names:
            raise RecordError(f"{_join(path, key)}: unknown key; expected only {', '.join(names)}")
    for name in names:
        if name not in value:
            raise RecordError(f"{_join(path, name)}: expected a value, found none")
    return kind(**{name: _decode(hints[name], value[name], _join(path, name)) for name in names})


def _union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    candidates = [kind for kind in kinds if kind is not type(None)]
    errors = []
    for kind in candidates:
        try:
            return _decode(kind, value, path)
        except RecordError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise RecordError(f"{path}: expected {' or '.join(map(_name, kinds))}, found {value!r}")


def _tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    _expect(isinstance(value, (list, tuple)), value, "a list", path)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    _expect(len(value) == len(kinds), value, f"a list of {len(kinds)}", path)
    return tuple(_decode(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _scalar(kind: Any, value: Any, path: str) -> Any:
    accepts: dict[Any, Callable[[Any], bool]] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
        str: lambda v: isinstance(v, str),
    }
    _expect(accepts[kind](value), value, _name(kind), path)
    if kind is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        raise RecordError(f"{path}: expected a number, found one that is too large") from None


def _expect(holds: bool, value: Any, expected: str, path: str) -> Any:
    if not holds:
        raise RecordError(f"{path or 'document'}: expected {expected}, found {value!r:.60}")
    return value


def _name(kind: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if typing.get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
