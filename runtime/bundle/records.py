"""Frozen dataclasses to plain JSON values and back, strictly.

Nothing is skipped: a missing key, an unknown key or a value of another type is an error that names the field, what was
expected and what was found; of several such, up to twenty are named at once. Only a field that is marked as `OPTIONAL`
may be missing, so that a format can grow and its older documents stay readable. Fields may be dataclasses, numbers,
texts, truth values, tuples, unions, literals and dictionaries by text; a field of type `object` takes any value as it
is.
"""

from __future__ import annotations

import types
import typing
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

OPTIONAL = {"optional": True}
"""Metadata of a field that documents may lack, as in ``scale: float | None = field(default=None, metadata=OPTIONAL)``.

`decode` takes the default for a missing key, and `encode` leaves the key out where the field has its default. A default
without this, as that of an argument that callers may leave out, does not make a field optional.
"""

_LONGEST_KEY = 60  # characters of a key that errors show
_MOST = 20  # problems, and keys of one object, that errors show
_NOT_ON_A_LINE = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of pairs, separators of lines and paragraphs


class RecordError(ValueError):
    """Values that do not fit their fields.

    Args:
        problems: For each of them: its field, what was expected and what was found.

    Attributes:
        problems: The same.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        shown = [f"({number}) {problem}" for number, problem in enumerate(problems[:_MOST], 1)]
        count = f"more than {_MOST}" if len(problems) > _MOST else str(len(problems))
        several = f"{count} fields do not fit: {'; '.join(shown)}"
        super().__init__(problems[0] if len(problems) == 1 else several)


def encode(record: object, *, complete: bool = False) -> Any:
    """Turn a dataclass into plain values.

    Args:
        record: A dataclass, or a list, tuple or dictionary of such, nested at will; other values stay as they are.
        complete: Whether optional fields at their default are there too.

    Returns:
        The same as dictionaries, lists and scalars, in the order of the fields. Optional fields at their default are
        left out, unless all are wanted.
    """
    if is_dataclass(record) and not isinstance(record, type):
        values = ((one, getattr(record, one.name)) for one in fields(record))
        told = {one: value for one, value in values if complete or not (_may_lack(one) and value == one.default)}
        return {one.name: encode(value, complete=complete) for one, value in told.items()}
    if isinstance(record, (list, tuple)):
        return [encode(item, complete=complete) for item in record]
    if isinstance(record, dict):
        return {key: encode(value, complete=complete) for key, value in record.items()}
    return record


def decode(kind: type[T], value: object, path: str = "") -> T:
    """Turn plain values into a dataclass.

    Args:
        kind: The dataclass.
        value: Its fields by name, as `encode` gives them.
        path: Name of the value in error messages; empty for a whole document.

    Returns:
        The dataclass.

    Raises:
        RecordError: The value does not fit; the error names all fields that do not.
    """
    return typing.cast("T", _decode(kind, value, path))


def _decode(kind: object, value: object, path: str) -> object:
    """The value as the type of a field wants it."""
    if kind is object:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, path)
    if origin is Literal:
        _expect(value in arguments, value, " or ".join(repr(choice) for choice in arguments), path)
        return value
    if origin is tuple:
        return _tuple(arguments, value, path)
    if origin is dict:
        items = {str(_scalar(str, key, path)): item for key, item in _object(value, path).items()}
        parts = ((arguments[1], item, _join(path, key)) for key, item in items.items())
        return dict(zip(items, _together(parts), strict=True))
    return _scalar(kind, value, path)


def _record(kind: type[DataclassInstance], value: object, path: str) -> DataclassInstance:
    """A dataclass from its fields by name."""
    found = _object(value, path)
    hints = typing.get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    problems = unknown_keys(found, names, path)
    problems += [
        f"{_join(path, one.name)}: expected a value, found none"
        for one in fields(kind)
        if one.name not in found and not _may_lack(one)
    ]
    told = [name for name in names if name in found]
    values = _together(((hints[name], found[name], _join(path, name)) for name in told), problems)
    return kind(**dict(zip(told, values, strict=True)))


def unknown_keys(found: Iterable[str], known: Sequence[str], path: str) -> list[str]:
    """What is wrong with the keys of an object.

    Args:
        found: Its keys.
        known: The keys that it may have.
        path: Its name.

    Returns:
        One problem that names all keys that are not known, or none.
    """
    unknown = [_join(path, key) for key in found if key not in known]
    if not unknown:
        return []
    more = f" and {len(unknown) - _MOST} more" if len(unknown) > _MOST else ""
    shown = f"{', '.join(unknown[:_MOST])}{more}: unknown key{'s' * (len(unknown) > 1)}"
    return [f"{shown}; expected only {', '.join(known)}"]


def _together(parts: Iterable[tuple[object, object, str]], problems: Sequence[str] = ()) -> list[object]:
    """Values as their types want them, or one error with all problems, and those that were found before.

    Args:
        parts: A type, a value and its name, for each.
        problems: What is wrong already.
    """
    found, wrong = list[object](), list(problems)
    for kind, value, path in parts:
        try:
            found.append(_decode(kind, value, path))
        except RecordError as error:
            wrong += error.problems
            if len(wrong) > _MOST:  # a stranger's file may have millions
                break
    if wrong:
        raise RecordError(*wrong)
    return found


def _may_lack(one: Field[Any]) -> bool:
    """Whether documents may lack a field."""
    return one.metadata.keys() >= OPTIONAL.keys()


def _union(kinds: Sequence[object], value: object, path: str) -> object:
    """The value as the first type that it fits."""
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _decode(kind, value, path)
        except RecordError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise RecordError(f"{path}: expected {' or '.join(map(_name, kinds))}, found {value!r:.60}")


def _tuple(kinds: Sequence[object], value: object, path: str) -> tuple[object, ...]:
    """A tuple, of fixed length or of any."""
    if not isinstance(value, (list, tuple)):
        raise _unexpected(value, "a list", path)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    _expect(len(value) == len(kinds), value, f"a list of {len(kinds)}", path)
    return tuple(_together((kinds[index], item, f"{path}[{index}]") for index, item in enumerate(value)))


def _scalar(kind: object, value: object, path: str) -> object:
    """A number, text or truth value; a whole number will do for a float."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RecordError(f"{path}: expected a number, found one that is too large") from None
    fits = isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _expect(fits, value, _name(kind), path)
    if isinstance(value, str) and any(unicodedata.category(letter) in _NOT_ON_A_LINE for letter in value):
        raise RecordError(f"{path}: expected text on one line, found control characters in {value!r:.60}")
    return value


def _object(value: object, path: str) -> dict[str, object]:
    """The value, if it is a dictionary."""
    if not isinstance(value, dict):
        raise _unexpected(value, "an object", path)
    return value


def _expect(holds: bool, value: object, expected: str, path: str) -> None:
    if not holds:
        raise _unexpected(value, expected, path)


def _unexpected(value: object, expected: str, path: str) -> RecordError:
    return RecordError(f"{path or 'document'}: expected {expected}, found {value!r:.60}")


def _name(kind: object) -> str:
    """A type in words."""
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    if typing.get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    return next((name for known, name in names.items() if known is kind), getattr(kind, "__name__", str(kind)))


def _join(path: str, key: str) -> str:
    shown = key if key.isprintable() and len(key) <= _LONGEST_KEY else f"{key!r:.{_LONGEST_KEY}}"
    return f"{path}.{shown}" if path else shown
