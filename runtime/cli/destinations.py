"""Where ``--out`` points: a folder or a file of this disk, or a URL to which outputs are uploaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .console import refuse_one
from .outputs import Outputs

if TYPE_CHECKING:
    from ..storage.destination import Destination

MASKS = (".tif", ".tiff")
"""Endings of a name for the mask itself."""

_STAGING = "staging"


@dataclass(frozen=True, kw_only=True)
class Out:
    """What ``--out`` means.

    Attributes:
        path: The folder in which outputs are made; the mask itself where that is named.
        destination: Where they go when they are complete.
    """

    path: Path
    destination: Destination

    def here(self, outputs: Outputs) -> Outputs:
        """The outputs as they are made: files that wait to be uploaded are replaced without asking."""
        return replace(outputs, overwrite=outputs.overwrite or self.destination.staged)


def out_of(out: str, staging: Path | None) -> Out:
    """What an ``--out`` means. A store is asked whether files can be put there.

    Args:
        out: The value of ``--out``.
        staging: That of ``--staging``.

    Returns:
        The folder or the mask, and where it goes.

    Raises:
        InputError: Nothing can be put there, or a package is missing.
        OutputError: The store does not answer, or has no such bucket.
    """
    from ..storage.places import is_remote_place, local_path

    if not is_remote_place(out):
        from ..storage.destination import DISK

        refuse_one("staging", "outputs that go to a URL")
        return Out(path=local_path(out), destination=DISK)
    from ..engines.kept import cache_root
    from ..storage.destination import Upload

    name = PurePosixPath(out).name
    is_file = PurePosixPath(name).suffix.lower() in MASKS
    place = out.rstrip("/")[: -len(name)] if is_file else out
    destination = Upload(place, staging or cache_root() / _STAGING)
    destination.storage.check()
    return Out(path=destination.folder / name if is_file else destination.folder, destination=destination)
