"""Commands that error messages advise: the one place outside the command lines that spells them."""

from __future__ import annotations

import json
import shlex

ON_JETSON = (
    "on a Jetson it comes with JetPack (apt install python3-libnvinfer) and is seen by virtual environments made with "
    "--system-site-packages"
)
"""How TensorRT gets onto a Jetson."""


def install(extra: str) -> str:
    """The command that adds an extra to the fctl that is installed here.

    Args:
        extra: An extra of fctl, such as "cpu", or several with commas.

    Returns:
        A pip command. It names the checkout, file or repository that fctl was installed from, or else its name in the
        package index.
    """
    return f"pip install {_requirement(_origin(), extra)}"


def export(bundle: str, **options: object) -> str:
    """The command that makes something of a bundle.

    Args:
        bundle: The bundle as a command line takes it (`bundle_argument`).
        options: Its options by name, in order.

    Returns:
        A command line of ``fctl-export``.
    """
    words = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return " ".join(("fctl-export", bundle, *words))


def _origin() -> dict[str, object]:
    """Where pip took fctl from (PEP 610); empty for the package index."""
    from importlib.metadata import PackageNotFoundError, distribution  # only for a message: loading them takes 40 ms

    try:
        text = distribution("fctl").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return json.loads(text) if text else {}


def _requirement(origin: dict[str, object], extra: str) -> str:
    """fctl with an extra, as pip takes it, quoted for a shell."""
    from urllib.parse import urlparse
    from urllib.request import url2pathname

    url = str(origin.get("url", ""))
    folder, repository = origin.get("dir_info"), origin.get("vcs_info")
    if isinstance(folder, dict):
        editable = "-e " if folder.get("editable") else ""
        return editable + shlex.quote(f"{url2pathname(urlparse(url).path)}[{extra}]")
    if isinstance(repository, dict):
        url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
    return shlex.quote(f"fctl[{extra}] @ {url}" if url else f"fctl[{extra}]")
