"""What the environment says of S3, for the two libraries that read it: botocore, behind fsspec, and GDAL."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_YES = ("YES", "TRUE", "ON", "1")


def endpoint() -> str | None:
    """The address of a server that speaks S3, by the variables of botocore or of GDAL; None for Amazon's own."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if address := os.environ.get(name):
            return address
    host = os.environ.get("AWS_S3_ENDPOINT", "")
    if not host or "://" in host:
        return host or None
    return f"{'https' if os.environ.get('AWS_HTTPS', 'YES').upper() in _YES else 'http'}://{host}"


def for_fsspec() -> dict[str, object]:
    """Options of s3fs. A bucket that anybody may read is asked without a signature where GDAL is told so."""
    address = endpoint()
    options: dict[str, object] = {} if address is None else {"endpoint_url": address}
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in _YES
    return options | ({"anon": True} if unsigned else {})


def for_gdal() -> dict[str, str]:
    """Options with which GDAL asks the same server; none that the environment sets itself.

    A bucket is part of the path there, for such a server seldom has a host name for each of them.
    """
    address = endpoint()
    if address is None or "AWS_S3_ENDPOINT" in os.environ:
        return {}
    parts = urlsplit(address)
    options = {
        "AWS_S3_ENDPOINT": (parts.netloc + parts.path).rstrip("/"),
        "AWS_HTTPS": "NO" if parts.scheme == "http" else "YES",
        "AWS_VIRTUAL_HOSTING": "NO",
    }
    return {name: value for name, value in options.items() if name not in os.environ}
