"""What older command lines wrote, which goes on to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Spellings:
    """Options that had other names, or took values that are options of their own today.

    Attributes:
        options: Today's name of an option, by an older one.
        values: By an option that took a value, the arguments that stand today for it and each of its values.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def translated(self, arguments: list[str]) -> list[str]:
        """The arguments of a command line as they are written today; those after ``--`` stay as they are."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        found, rest = list[str](), arguments[:end]
        while rest:
            name, equals, value = rest[0].partition("=")
            values = self.values.get(name, {})
            if equals and value in values:
                found += values[value]
            elif not equals and rest[1:] and rest[1] in values:
                found += values[rest.pop(1)]
            else:
                found.append(self.options.get(name, name) + equals + value)
            rest = rest[1:]
        return found + arguments[end:]
