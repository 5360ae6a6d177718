"""Commands that error messages advise: the one place outside the command lines that spells them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse


def install(extra: str) -> str:
    """The command that adds an extra to the fctl that is installed here.

    Args:
        extra: An extra of fctl, such as "cpu", or several with commas.

    Returns:
        A pip command. It names the checkout or the file that fctl was installed from, or else the package index.
    """
    return f"pip install {_requirement(_origin(), extra)}"


def export(bundle: str, *options: str) -> str:
    """The command that makes something of a bundle.

    Args:
        bundle: The bundle as a command line takes it (`bundle_argument`).
        options: Further arguments, options and their values, in order.

    Returns:
        A command line of ``fctl-export``.
    """
    return " ".join(("fctl-export", bundle, *options))


def _origin() -> dict[str, object]:
    """Where pip took fctl from (PEP 610); empty for the package index."""
    try:
        text = distribution("fctl").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return json.loads(text) if text else {}


def _requirement(origin: dict[str, object], extra: str) -> str:
    """fctl with an extra, as pip takes it, quoted for a shell."""
    url = str(origin.get("url", ""))
    folder = origin.get("dir_info")
    if isinstance(folder, dict):
        editable = "-e " if folder.get("editable") else ""
        return f"{editable}'{unquote(urlparse(url).path)}[{extra}]'"
    return f"'fctl[{extra}] @ {url}'" if url else f"'fctl[{extra}]'"
