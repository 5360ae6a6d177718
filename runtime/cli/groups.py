"""Groups of options: each is a panel of ``--help``, and one frozen dataclass for the function behind the command."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, ClassVar, get_args, get_type_hints

from typer.models import ParameterInfo


@dataclass(frozen=True)
class OptionGroup:
    """Base of frozen dataclasses whose fields are options, declared as typer declares parameters.

    Attributes:
        panel: Title of the panel that shows them in ``--help``.
    """

    panel: ClassVar[str]


def flattened(function: Callable[..., None]) -> Iterator[inspect.Parameter]:
    """The parameters of a function, with the options of a group in place of the group.

    Args:
        function: The function behind a command.

    Yields:
        Parameters by keyword, with annotations that typer understands.
    """
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if _is_group(parameter.annotation):
            yield from _options(parameter.annotation)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def packed(function: Callable[..., None], values: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a function, with options packed into the groups that it takes.

    Args:
        function: The function behind a command.
        values: Values of the parameters that `flattened` gives.

    Returns:
        Arguments by keyword.
    """
    arguments: dict[str, object] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = parameter.annotation
        if _is_group(kind):
            arguments[name] = kind(**{field.name: values[field.name] for field in fields(kind)})
        else:
            arguments[name] = values[name]
    return arguments


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def _options(group: type[OptionGroup]) -> Iterator[inspect.Parameter]:
    """The fields of a group as parameters, each in the group's panel."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, *extras = get_args(hints[field.name])
        option = copy.copy(next(extra for extra in extras if isinstance(extra, ParameterInfo)))
        option.rich_help_panel = group.panel
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=Annotated[kind, option],
        )
