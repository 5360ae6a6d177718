"""How masks name their classes: in a tag, for GeoTIFF has no other place for them."""

from __future__ import annotations

import json
from collections.abc import Sequence

CLASSES = "FCTL_CLASSES"
"""The tag in which masks of fctl keep the names of their classes by id, as JSON."""


def names_tag(names: Sequence[str]) -> dict[str, str]:
    """The tag, and its text, for classes of these names in the order of their ids."""
    return {CLASSES: json.dumps(dict(enumerate(names)))}
