"""What tells one state of an image from another: of its file, the files beside it, and those that a VRT names."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RasterError
from ..storage.states import state_of
from .access import Access
from .files import OpenFile, open_any
from .guard import beside, forbidden
from .places import Place, Scene, file_of, is_remote, members_of, place_of
from .virtual import existing_sources

_HASHED = 64 << 10  # bytes at each end of a file
_BESIDE = "beside:"
_DEEPEST = 8  # VRTs of VRTs
_BLOCKS = 1000  # of an image on a server whose places in its file are compared
_ANY = Access(sources="any", max_pixels=sys.maxsize, max_bands=sys.maxsize, max_block=sys.maxsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The state of an image, to be compared with `==`.

    Attributes:
        size: Bytes of the file; 0 where a server does not say; for several images as one, how many these are.
        mtime_ns: When the file was last changed, in nanoseconds since 1970; 0 where a server does not say.
        sha256: Digest of the first and the last 64 KiB of the file, in hexadecimal; for an image on a server, of its
            header and of the lengths of up to 1000 of its compressed blocks.
        others: By name, relative to the image's folder: "size mtime_ns" of the files that change what is read of the
            image, which are those beside it (.aux.xml, .msk, .ovr, .tfw and so on) and the sources of a VRT; of an
            image on a server its ETag, if it has one.
    """

    size: int
    mtime_ns: int
    sha256: str
    others: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, str | int]:
        """The fingerprint as JSON can hold it."""
        own: dict[str, str | int] = {"size": self.size, "mtime_ns": self.mtime_ns, "sha256": self.sha256}
        return own | {_BESIDE + name: state for name, state in self.others}

    @classmethod
    def from_dict(cls, fields: Mapping[str, str | int]) -> Fingerprint:
        """A fingerprint from what `as_dict` gave.

        Args:
            fields: The dictionary.

        Returns:
            The fingerprint, equal to the one that gave it.

        Raises:
            KeyError: A field is missing.
            ValueError: A number is none.
        """
        others = {key[len(_BESIDE) :]: str(state) for key, state in fields.items() if key.startswith(_BESIDE)}
        return cls(
            size=int(fields["size"]), mtime_ns=int(fields["mtime_ns"]), sha256=str(fields["sha256"]),
            others=tuple(sorted(others.items())),
        )  # fmt: skip

    def difference(self, now: Fingerprint) -> str | None:
        """What changed since this fingerprint was taken.

        Args:
            now: A later fingerprint of the same image.

        Returns:
            One line of words, such as "its size was 12 bytes and is 13"; None where both are equal.
        """
        if self.size != now.size:
            return f"its size was {self.size} bytes and is {now.size}"
        if self.sha256 != now.sha256:
            return "its first or last bytes are others"
        if self.mtime_ns != now.mtime_ns:
            return "it was written anew since (its time of change is another)"
        before, after = dict(self.others), dict(now.others)
        for name in sorted({*before, *after}):
            if name not in after:
                return f"{name}, which belongs to it, is gone"
            if before.get(name) != after[name]:
                return f"{name}, which belongs to it, is {'changed' if name in before else 'new'}"
        return None


def fingerprint(place: Place) -> Fingerprint:
    """Take the fingerprint of an image.

    Args:
        place: The file, or the name of a part of a container.

    Returns:
        Its fingerprint. At most 128 KiB are read of the file, none of the others but the text of VRTs; of an image on a
        server the header.

    Raises:
        RasterError: A file is missing, or may not be read.
    """
    if isinstance(place, Scene):
        return _together([(str(member), fingerprint(member)) for member in place.members])
    path = file_of(place)
    if is_remote(place) and not path.exists():
        return _of_server(place)
    try:
        state, digest = path.stat(), _digest(path)
    except PermissionError:
        raise forbidden(path) from None
    except OSError as error:
        raise RasterError(subject=path, expected="an image", found=f"none ({error.strerror})") from None
    folder = path.parent
    others = {os.path.relpath(other, folder).replace(os.sep, "/"): _state(other) for other in belonging(path)}
    return Fingerprint(
        size=state.st_size, mtime_ns=state.st_mtime_ns, sha256=digest, others=tuple(sorted(others.items()))
    )


def _of_server(place: str | Path) -> Fingerprint:
    """The fingerprint of an image on a server, by what the server says of it and by its header."""
    with open_any(place, _ANY) as dataset:
        header = _header(dataset)
    state = state_of(str(place_of(place)))
    if state is None:
        return Fingerprint(size=0, mtime_ns=0, sha256=header)
    return Fingerprint(
        size=state.size or 0, mtime_ns=int((state.changed or 0) * 1e9), sha256=header,
        others=(("ETag", state.etag),) if state.etag else (),
    )  # fmt: skip


def _together(members: Sequence[tuple[str, Fingerprint]]) -> Fingerprint:
    """The fingerprint of several images as one, in which each of their files belongs to it."""
    digest, others = hashlib.sha256(), dict[str, str]()
    for name, found in members:
        digest.update(name.encode(errors="surrogateescape"))
        others[name] = f"{found.size} {found.mtime_ns} {found.sha256}"
        others |= {f"{name}: {other}": state for other, state in found.others}
    return Fingerprint(size=len(members), mtime_ns=0, sha256=digest.hexdigest(), others=tuple(sorted(others.items())))


def belonging(path: Path) -> list[Path]:
    """The files that belong to an image: those beside it, the sources of a VRT, and those beside these.

    Args:
        path: The image.

    Returns:
        The files, each once, without the image.
    """
    folders: dict[Path, frozenset[str] | None] = {}
    found: dict[Path, None] = {}

    def follow(image: Path, depth: int) -> Iterator[Path]:
        yield from beside(image, folders)
        for source in existing_sources(image) if depth else ():
            if source not in found:
                yield source
                yield from follow(source, depth - 1)

    for file in follow(path, _DEEPEST):
        found[file] = None
    found.pop(path, None)
    return list(found)


class Watch:
    """Tells whether an image's files were changed, removed or replaced, without reading them.

    Args:
        place: The file, or the name of a part of a container.
    """

    def __init__(self, place: Place) -> None:
        self._place, paths = place, [file_of(member) for member in members_of(place)]
        self._states = {file: _identity(file) for path in paths for file in (path, *belonging(path))}

    def check(self) -> None:
        """See that all is as it was when the watch was set.

        Raises:
            RasterError: A file was changed, removed or replaced.
        """
        for file, before in self._states.items():
            now = _identity(file)
            if now != before:
                found = "none" if now is None else "another one, or other contents"
                raise RasterError(
                    subject=self._place, expected=f"{file.name} as it was when the image was opened", found=found,
                    remedy="leave the image alone while it is read, and run again",
                )  # fmt: skip


def _identity(file: Path) -> tuple[int, int, int, int] | None:
    """Device, inode, size and time of change of a file; None where it is gone."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _state(file: Path) -> str:
    found = _identity(file)
    return "gone" if found is None else f"{found[2]} {found[3]}"


def _digest(path: Path) -> str:
    """The digest of both ends of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_HASHED))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(_HASHED, size - _HASHED))
        digest.update(file.read(_HASHED))
    return digest.hexdigest()


def _header(dataset: OpenFile) -> str:
    """The digest of what an image's header tells, and of where its blocks lie if it is a GeoTIFF."""
    told = [dataset.shape, dataset.dtypes, dataset.transform, dataset.nodatavals, dataset.tags()]
    told.append(dataset.crs.to_wkt() if dataset.crs else None)
    height, width = dataset.block_shapes[0]
    across, down = -(-dataset.width // width), -(-dataset.height // height)
    for number in range(0, across * down, -(-across * down // _BLOCKS)):
        row, column = divmod(number, across)
        told.append([dataset.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", 1) for what in ("OFFSET", "SIZE")])
    return hashlib.sha256(repr(told).encode()).hexdigest()
