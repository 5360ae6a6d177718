"""How the outputs of a run are written, beyond where they go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from ..bundle.manifest import ClassInfo
from ..choices import ConfidenceType, ProbabilityType
from ..errors import InputError
from ..raster.cog import check_creation

OPTIONS = "FCTL_OUTPUTS"
"""The tag that keeps options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """How outputs are written.

    Attributes:
        probability_type: "uint8" writes a probability as a whole number of 254ths, "float32" as it is.
        confidence_type: What the confidence of a pixel is: "probability", the highest of its probabilities, or
            "agreement", the weight of the overlapping tiles that vote for its class.
        colours: Red, green and blue by the name of a class; the bundle's own colours for all others.
        creation: Options of GDAL's COG driver for the mask, by name.
        min_area: Polygons of less than so many square metres are left out; pixels, where a raster has no known size.
        simplify: By how many metres the border of a polygon may move to have fewer corners; pixels as above.
    """

    probability_type: ProbabilityType = "uint8"
    confidence_type: ConfidenceType = "probability"
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    creation: Mapping[str, str] = field(default_factory=dict)
    min_area: float = 0.0
    simplify: float = 0.0

    def classes(self, classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
        """The classes of a bundle in the colours that are wanted.

        Raises:
            InputError: A colour is for a class that the bundle does not have.
        """
        names = [info.name for info in classes]
        if unknown := [name for name in self.colours if name not in names]:
            raise InputError(subject="`colours`", expected=" or ".join(names), found=", ".join(map(repr, unknown)))
        return tuple(replace(info, colour=self.colours.get(info.name, info.colour)) for info in classes)

    def check(self) -> None:
        """Refuse options that could not be followed, before anything is computed.

        Raises:
            InputError: One of them means nothing, or would change class ids.
        """
        kinds = get_args(ConfidenceType)
        if self.confidence_type not in kinds:
            raise InputError(subject="`confidence_type`", expected=" or ".join(kinds), found=repr(self.confidence_type))
        for name, value in (("min_area", self.min_area), ("simplify", self.simplify)):
            if not 0 <= value < float("inf"):
                raise InputError(subject=f"`{name}`", expected="0 or more", found=f"{value:g}")
        if self.creation:
            check_creation(self.creation)

    def tags(self) -> dict[str, str]:
        """What masks say of options that were given, so that a later run knows whether it would write the same."""
        return {} if self == OutputOptions() else {OPTIONS: json.dumps(self.request())}

    def request(self) -> dict[str, object]:
        """What the bytes of outputs depend on, as values that JSON keeps as they are."""
        measure = {} if self.confidence_type == "probability" else {"confidence type": self.confidence_type}
        return measure | {
            "probability type": self.probability_type,
            "colours": {name: list(colour) for name, colour in self.colours.items()},
            "creation options": dict(self.creation),
            "least area": self.min_area,
            "simplification": self.simplify,
        }
