"""What tells one state of a file on a server from another, as far as the server says."""

from __future__ import annotations

import contextlib
import re
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..errors import FctlError
from .base import State
from .places import url_of

_WEB = re.compile(r"(?:/vsicurl/)?(https?://.+)", re.DOTALL)
_STORE = re.compile(r"(?:s3|gs|az|abfs)://.+/.+|/vsi(?:s3|gs|az)/.+/.+", re.DOTALL)
_TIMEOUT = 20  # seconds
_TRIES = 3


def state_of(name: str) -> State | None:
    """Ask a server about a file, as one asks whose images may lie anywhere.

    Args:
        name: An address of the web, with /vsicurl/ before it or not; the URL of a file in a store, or GDAL's name of
            that.

    Returns:
        Its state; None where the server does not tell, nobody here can ask it, or the name is another.
    """
    if found := _WEB.fullmatch(name):
        return _of_web(found[1])
    return _of_store(name) if _STORE.fullmatch(name) else None


def _of_web(address: str) -> State | None:
    """One byte is asked for: some servers answer no HEAD, and signed addresses are good for GET alone."""
    for attempt in range(_TRIES):
        time.sleep(0.5 * attempt)
        with contextlib.suppress(OSError, HTTPException, ValueError):
            try:
                with urlopen(Request(address, headers={"Range": "bytes=0-0"}), timeout=_TIMEOUT) as answer:
                    return _told(answer.headers, whole=answer.status == 200)
            except HTTPError as error:
                error.close()
                if error.code < 500 and error.code != 429:
                    return None
    return None


def _told(headers: HTTPMessage, *, whole: bool) -> State:
    """What an answer says, whether it is the whole file or a part of it."""
    size = headers.get("Content-Length", "") if whole else headers.get("Content-Range", "").rpartition("/")[2]
    changed = None
    with contextlib.suppress(ValueError, TypeError):
        changed = parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
    return State(size=int(size) if size.isdecimal() else None, etag=headers.get("ETag", ""), changed=changed)


def _of_store(name: str) -> State | None:
    """What fsspec finds, where it is installed and may look."""
    from .remote import RemoteStorage  # fsspec takes a while to load

    folder, _, file = url_of(name).rpartition("/")
    try:
        return RemoteStorage(folder).state(file)
    except FctlError:
        return None
