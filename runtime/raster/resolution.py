"""At which distance from pixel to pixel a raster is worked at."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError, RasterError
from ..tiling.rescale import Rescale
from .access import Access
from .ground import ALIKE, ground_distance, warn_of_distance
from .source import RasterSource

log = logging.getLogger(__name__)

_FINEST = 4  # times that a raster is enlarged unasked: what it does not show does not appear, and work grows


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is asked of the distance between pixels on the ground.

    Attributes:
        kind: "auto": that of the training images, where a raster's is another; "native": the raster's own; "metres".
        metres: The distance, where it is given in metres.
    """

    kind: Literal["auto", "native", "metres"]
    metres: float = math.nan

    @classmethod
    def parsed(cls, text: str) -> Resolution:
        """What a text asks for.

        Args:
            text: "auto", "native", or metres as in "0.5".

        Returns:
            What is asked.

        Raises:
            InputError: The text is anything else.
        """
        if text in ("auto", "native"):
            return cls("auto" if text == "auto" else "native")
        try:
            metres = float(text)
        except ValueError:
            metres = math.nan
        if not 0 < metres < math.inf:
            raise InputError(subject="`resolution`", expected="auto, native or metres as in 0.5", found=repr(text))
        return cls("metres", metres)

    def told(self, trained: float | None) -> str | None:
        """What outputs say of it, alike where they would be alike.

        Args:
            trained: Metres per pixel of the training images; None where it is not known.

        Returns:
            A short text; None where nothing was asked and nothing is known.
        """
        if self.kind == "metres":
            return f"{self.metres:.9g}"
        return None if trained is None else f"auto {trained:.9g}" if self.kind == "auto" else "native"

    def rescale(self, raster: RasterSource, trained: float | None, access: Access) -> Rescale:
        """The grid to work in.

        Args:
            raster: The open raster.
            trained: Metres per pixel of the training images; None where it is not known.
            access: How large a raster may be.

        Returns:
            The raster's grid and the one to work in, which may be the same.

        Raises:
            RasterError: Metres are asked of a raster that has none, or the working grid would be too large.
        """
        found = ground_distance(raster.georeference, raster.height, raster.width)
        if self.kind == "metres" and not found:
            raise RasterError(
                "`resolution` in metres needs a transform and a coordinate reference system, which it lacks",
                subject=raster.name, remedy="georeference the image, or leave `resolution` out",
            )  # fmt: skip
        wanted = self._wanted(found, trained)
        if wanted is None or found is None:
            warn_of_distance(raster, trained)
            return Rescale.by(raster.height, raster.width, 1)
        rescale = Rescale.by(raster.height, raster.width, found / wanted)
        if rescale.is_identity:
            return rescale
        if rescale.rows * rescale.columns > access.max_pixels:
            raise RasterError(
                subject=raster.name, expected=f"at most {access.max_pixels} pixels (`max_pixels`)",
                found=f"{rescale.rows} x {rescale.columns} at {wanted:.3g} m", remedy="choose another `resolution`",
            )  # fmt: skip
        log.info("%s: worked at %.3g m (raster: %.3g m)", raster.name, wanted, found)
        return rescale

    def _wanted(self, found: float | None, trained: float | None) -> float | None:
        """Metres to work at, where a raster's pixels are as far apart as was found; None for the raster's own."""
        if self.kind == "metres":
            return self.metres
        if self.kind == "native" or not found or not trained:
            return None
        return trained if trained > ALIKE * found or ALIKE * trained < found <= _FINEST * trained else None
