"""The checks of every request before NiceGUI: prefix, origin and session; and the headers of the answers.

Plain ASGI, so that WebSockets pass through it, too.
"""

import re
import secrets
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluffle.web.access.auth import Authenticator, session_cookie

VISITOR = "fluffle.visitor"  # key of the scope

# NiceGUI compiles templates in the browser, which needs eval. Scripts run only with the nonce of their page.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-eval' 'nonce-{nonce}'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_PUBLIC = re.compile(r"/(login|static/.*|favicon\.ico|_nicegui/[^/]+/(static|libraries|components|esm)/.*)")
_POLLING = "/_nicegui_ws/"  # transport of browsers without WebSocket: its GET opens a session, too
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class AccessMiddleware:
    """Passes a request on to `app`, or refuses it.

    `prefix` is the path under which a proxy shows the page, such as `/fluffle`; the proxy may remove it or not.
    Requests without a session go to the login. Requests that could change something must come from a page of this
    site: WebSockets, and all methods except GET and HEAD.
    """

    def __init__(self, app: ASGIApp, auth: Authenticator, *, prefix: str = "") -> None:
        self.app = app
        self._auth = auth
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scope = self._beneath_prefix(scope)
        path = scope["path"].removeprefix(self._prefix)
        headers = _headers(scope)
        scope[VISITOR] = self._auth.visitor(session_cookie(headers.get(b"cookie", b"").decode("latin-1")))
        is_socket = scope["type"] == "websocket"
        changes = is_socket or scope["method"] not in ("GET", "HEAD") or path.startswith(_POLLING)
        if self._auth.is_open and not _is_local(headers):
            await _refuse(scope, send, 403, "Without a login, the page is available only as localhost.")
        elif changes and not is_same_origin(headers, is_socket):
            await _refuse(scope, send, 403, "This request came from another site.")
        elif scope[VISITOR] is None and not _PUBLIC.fullmatch(path):
            await self._to_login(scope, send, path)
        else:
            await self.app(scope, receive, _SecuredResponse(send) if scope["type"] == "http" else send)

    def _beneath_prefix(self, scope: Scope) -> Scope:
        path = scope["path"]
        if self._prefix and (path == self._prefix or path.startswith(self._prefix + "/")):
            path = path[len(self._prefix) :] or "/"
        # NiceGUI would write the prefix of this header into the page; only the configured prefix is valid.
        headers = [(name, value) for name, value in scope["headers"] if name != b"x-forwarded-prefix"]
        return {**scope, "path": self._prefix + path, "root_path": self._prefix, "headers": headers}

    async def _to_login(self, scope: Scope, send: Send, path: str) -> None:
        wants_page = scope["type"] == "http" and b"text/html" in _headers(scope).get(b"accept", b"")
        if not wants_page:
            await _refuse(scope, send, 401, "Log in first.")
            return
        query = scope["query_string"].decode("latin-1")
        wanted = quote(path + (f"?{query}" if query else ""), safe="")
        headers = [(b"location", f"{self._prefix}/login?next={wanted}".encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class _SecuredResponse:
    """Adds security headers to an answer, and the nonce to the scripts of a page."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._nonce = secrets.token_urlsafe(16)
        self._start: Message = {}
        self._page: list[bytes] | None = None

    async def __call__(self, message: Message) -> None:
        """Send one part of the answer."""
        if message["type"] == "http.response.start":
            policy = _POLICY.format(nonce=self._nonce).encode()
            headers = [*message["headers"], *_ALWAYS, (b"content-security-policy", policy)]
            self._start = {**message, "headers": headers}
            if _is_page(message["headers"]):
                self._page = []
            else:
                await self._send(self._start)
        elif self._page is None:
            await self._send(message)
        else:
            self._page.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send_page(b"".join(self._page))

    async def _send_page(self, page: bytes) -> None:
        # Texts of people and LLMs are escaped, so that each `<script` in the page belongs to the page itself.
        page = page.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
        await self._send({"type": "http.response.body", "body": page})


def is_same_origin(headers: dict[bytes, bytes], must_say: bool) -> bool:
    """Return whether a request comes from a page of the same host. A proxy passes the original host on."""
    origin = headers.get(b"origin")
    if origin is None:
        return not must_say and headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none")
    hosts = {headers.get(b"host", b"").lower(), headers.get(b"x-forwarded-host", b"").lower()} - {b""}
    return urlsplit(origin.lower()).netloc in hosts


def _is_local(headers: dict[bytes, bytes]) -> bool:
    # DNS rebinding: another site's name may resolve to 127.0.0.1.
    return urlsplit(b"//" + headers.get(b"host", b"")).hostname in {name.encode() for name in _LOCAL_NAMES}


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _is_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in headers)


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4000 + status, "reason": why})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_ALWAYS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
