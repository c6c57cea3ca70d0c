"""Who may see the page, and what a browser may load with it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgecnn.errors import RecipeError

TOKEN_LENGTH: Final = 16
"""Shorter tokens could be guessed over a network: 16 characters of [a-z0-9] are 82 bits."""

COOKIE: Final = "edgecnn"


class Guard:
    """Lets in only whom it should, and tells the browser to load nothing from elsewhere.

    Without a token only this machine is served. A page of a stranger, open in a browser on this very
    machine, could still ask: it is refused by the name that it uses for us (DNS rebinding), and since
    it cannot send JSON without being asked about it first, it can change nothing (CSRF).
    """

    _OPEN: Final = ("/", "/healthz", "/api/login")

    def __init__(self, app: ASGIApp, token: str, html: bytes) -> None:
        self._app, self._token = app, token
        self._headers = [
            (b"content-security-policy", _content_policy(html).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        if scope["type"] != "http":
            return
        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._token and not is_local(_host_name(headers.get("host", ""))):
            return refusal(403, "Without a token this page is for this machine only; ask for localhost.")
        if scope["method"] == "POST" and headers.get("content-type", "") != "application/json":
            return refusal(415, "Send JSON.")
        if self._token and scope["path"] not in self._OPEN and not self._knows(headers):
            return refusal(401, "Give the token.", {"www-authenticate": "Bearer"})
        return None

    def _knows(self, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same(bearer.strip(), self._token):
            return True
        return any(
            name.strip() == COOKIE and same(value.strip(), cookie(self._token))
            for name, _, value in (part.partition("=") for part in headers.get("cookie", "").split(";"))
        )


def refuse_open_door(host: str, token: str) -> None:
    """Refuse to show the camera to a whole network.

    Raises:
        RecipeError: If ``host`` is reached from elsewhere and the token is missing or short.
    """
    if token and len(token) < TOKEN_LENGTH:
        raise RecipeError(
            f"The token of the page has {len(token)} characters and can be guessed.",
            fix=f"Give one of at least {TOKEN_LENGTH}, for instance by 'openssl rand -hex 16'.",
        )
    if not token and not is_local(host):
        raise RecipeError(
            f"The page would show the camera to everyone who reaches {host}, without a token.",
            fix='Set token_file or token_env in [web], or host = "127.0.0.1" and go through ssh -L.',
        )


def is_local(host: str) -> bool:
    """Tell whether a name or address means this machine and is reached from no other.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0"), is_local("evil.example")
        (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Say no, and why."""
    return JSONResponse({"error": reason}, status, headers)


def same(given: str, expected: str) -> bool:
    """Compare without telling by the time it takes how much was right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def cookie(token: str) -> str:
    """Derive what a browser keeps, so that the token itself lies in no browser."""
    return hmac.new(token.encode(), b"edgecnn page", hashlib.sha256).hexdigest()


def _host_name(header: str) -> str:
    """Take the port off a Host header.

    Example:
        >>> _host_name("localhost:8080"), _host_name("[::1]:8080")
        ('localhost', '::1')
    """
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _content_policy(html: bytes) -> str:
    """Allow the page's own script and style, by digest, and nothing from elsewhere.

    Source:
        W3C Content Security Policy Level 3, hash sources.
    """

    def digest(tag: bytes) -> str:
        (inner,) = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), html, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inner).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(b'script')}; style-src {digest(b'style')}; "
        "img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
