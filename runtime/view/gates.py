"""Who may ask the server what: pages of other sites and names of other hosts are refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HERE = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")


class Gate:
    """Lets requests through that name this host and come from its own page, and says what pages may do.

    A page of another site could otherwise read what is shown, by a name that it lets point here (DNS rebinding).

    Args:
        app: What answers.
        host: The address that the server is bound to.
        policy: The page's content security policy.
    """

    def __init__(self, app: ASGIApp, host: str, policy: str) -> None:
        self._app, self._host, self._policy = app, host, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope["path"])
        answer: ASGIApp = PlainTextResponse(f"{refusal}\n", status_code=403) if refusal else self._app

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found["Content-Security-Policy"] = self._policy
                found["X-Content-Type-Options"] = "nosniff"
                found["Referrer-Policy"] = "no-referrer"
                found["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        await answer(scope, receive, guarded)

    def _refusal(self, headers: Headers, path: str) -> str | None:
        """Why a request is refused; None where it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_ours(host, self._host):
            return "this server answers to its own name alone"
        if origin is not None and urlsplit(origin).netloc != host:
            return "pages of other sites may not ask this server"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and not (path == "/" and headers.get("sec-fetch-mode") == "navigate"):
            return "pages of other sites may not ask this server"
        return None


def is_ours(name: str, bound: str) -> bool:
    """Whether a Host header names this server; its port may be that of a tunnel.

    Args:
        name: The header.
        bound: The address that the server is bound to.

    Returns:
        Whether it is the address, or this machine; for a server that is bound to all addresses, whether it is any
        address or the machine's name.
    """
    try:
        host = (urlsplit(f"//{name}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if host in (*_HERE, bound.lower()):
        return bool(host)
    return bound in _EVERYWHERE and (_is_address(host) or host in _lower((socket.gethostname(), socket.getfqdn())))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}
