"""How masks name their classes: in a tag, for GeoTIFF has no other place for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

CLASSES = "FCTL_CLASSES"
"""The tag in which masks of fctl keep the names of their classes by id, as JSON."""


def names_tag(names: Sequence[str]) -> dict[str, str]:
    """The tag, and its text, for classes of these names in the order of their ids."""
    return {CLASSES: json.dumps(dict(enumerate(names)))}


def names_in(tags: Mapping[str, str]) -> list[str]:
    """The names that tags hold, in the order of the ids; none where they are missing, or the tag is somebody else's."""
    try:
        found = json.loads(tags.get(CLASSES, "{}"))
        names = [found[str(index)] for index in range(len(found))]
    except (ValueError, KeyError, TypeError):
        return []
    return names if all(isinstance(name, str) for name in names) else []
