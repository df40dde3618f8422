"""The web page as a server: the composition root."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI
from nicegui import core, ui
from nicegui.client import Client as Page
from socketio import exceptions
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from broker.errors import ConfigurationError
from broker.settings import Settings
from broker.timestamps import now, to_datetime
from fluffle.web.access import login
from fluffle.web.access.auth import Authenticator, Credentials, NoLogin, Passwords, Role, Tokens, kept_secret
from fluffle.web.access.connections import BoundedBodies, RepeatFilter, uvicorn_settings
from fluffle.web.access.middleware import VISITOR, AccessMiddleware
from fluffle.web.access.revocation import close_revoked_pages
from fluffle.web.access.sessions import EndedSessions
from fluffle.web.layout import RABBIT, STATIC, head
from fluffle.web.live import Live
from fluffle.web.notifications import Notifications
from fluffle.web.page_context import SharedServices
from fluffle.web.pages import chat, llms, questions, rejected, reports, submit, task, tasks

PAGES = (tasks, task, submit, llms, chat, questions, reports, rejected)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STOP_TIMEOUT_SECONDS = 2  # seconds for open requests
_RECONNECT_TIMEOUT_SECONDS = 20.0  # seconds that a page is kept for a browser that is cut off
_MESSAGES_KEPT = 200  # of each page, for the same

_log = logging.getLogger(__name__)


async def serve(settings: Settings, url: str, say: Callable[[str], None]) -> None:
    """Serve the page until SIGINT or SIGTERM. `say` is told where it is, as soon as it is there.

    Raises ConfigurationError when it must not or cannot listen there, BrokerUnreachable, AccessRefused.
    """
    secret = _secret(settings)
    keys = _keys(settings, secret)
    listening = _listen(settings)
    prefix = (settings.web_prefix or "").rstrip("/")
    auth = Authenticator(keys, secret=secret, ended=EndedSessions(settings.state_dir / "web.ended"))
    async with Live(url) as live:
        notices = Notifications(lambda: to_datetime(now()))
        live.listen({"task"}, notices.hear)
        server = _Server(
            uvicorn.Config(build(SharedServices(live, auth, notices, prefix)), log_config=None, **_UVICORN)
        )
        for noisy in ("asyncio", "uvicorn.error"):
            logging.getLogger(noisy).addFilter(RepeatFilter())
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, server.stop)
        host, port = listening.getsockname()[:2]
        watching = asyncio.create_task(close_revoked_pages(auth, prefix))
        _introduce(say, f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}", keys)
        try:
            await server.serve(sockets=[listening])
        finally:
            watching.cancel()


_UVICORN: dict[str, Any] = {
    "loop": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": _STOP_TIMEOUT_SECONDS,
    **uvicorn_settings(),
}


def build(site: SharedServices) -> GZipMiddleware:
    """The application with all pages. NiceGUI knows one per process."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    login.add(app, site.auth, site.prefix)
    for page in PAGES:
        page.add(site)
    reports.add_downloads(app, site)
    _keep_sessions_apart()
    ui.add_head_html(head(site.prefix), shared=True)
    ui.run_with(
        app,
        title="Fluffle",
        language="en-GB",
        favicon=RABBIT.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" stroke="#2f7d6d" fill="none" '),
        dark=None,
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=_RECONNECT_TIMEOUT_SECONDS,
        message_history_length=_MESSAGES_KEPT,
        gzip_middleware_factory=None,  # the nonce goes into the page before it is compressed
        show_welcome_message=False,
    )
    core.sio.eio.cors_allowed_origins = []  # NiceGUI allows every origin; the gate allows ours
    return GZipMiddleware(BoundedBodies(AccessMiddleware(app, site.auth, prefix=site.prefix)))


def _keep_sessions_apart() -> None:
    """A socket speaks for the pages of its own session only, whatever page it names.

    NiceGUI takes whoever knows the id of a page for its browser.
    """
    handlers = core.sio.handlers["/"]
    connect = handlers["connect"]

    async def connect_own(sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        page_id = parse_qs(environ.get("QUERY_STRING", "")).get("client_id", [""])[0]
        if page_id and not _is_own(page_id, environ["asgi.scope"]):
            raise exceptions.ConnectionRefusedError("not a page of this session")
        return await connect(sid, environ, auth)

    def guarded(handle: Callable[..., Any]) -> Callable[..., Any]:
        async def handle_own(sid: str, message: Any = None, *rest: Any) -> Any:
            page_id = message.get("client_id") if isinstance(message, dict) else None
            if not _is_own(page_id, core.sio.get_environ(sid)["asgi.scope"]):
                return False
            try:
                outcome = handle(sid, message, *rest)
                return await outcome if asyncio.iscoroutine(outcome) else outcome
            except (LookupError, TypeError, ValueError, AttributeError) as error:  # NiceGUI trusts what a browser sends
                _log.debug("ignored a malformed message of a browser: %s", type(error).__name__)
                return False

        return handle_own

    handlers["connect"] = connect_own
    for name in ("handshake", "event", "javascript_response", "ack"):
        handlers[name] = guarded(handlers[name])
    handlers["log"] = lambda sid, message=None: None  # what a visitor writes does not get into our log


def _is_own(page_id: Any, scope: Scope) -> bool:
    """Whether a page belongs to the session that a socket was opened with."""
    page = Page.instances.get(page_id) if isinstance(page_id, str) else None
    if page is None:
        return False
    owner, visitor = (it.get(VISITOR) for it in (page.request.scope, scope))
    return owner is not None and visitor is not None and owner.session == visitor.session


class _Server(uvicorn.Server):
    """Uvicorn that leaves the signals to us."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop(self) -> None:
        """End; a second time: without waiting for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _secret(settings: Settings) -> str:
    if settings.web_token is not None:
        return settings.web_token.get_secret_value()
    return kept_secret(settings.state_dir / "web.token")


def _keys(settings: Settings, secret: str) -> Credentials:
    if settings.web_password_file is not None:
        return Passwords(settings.web_password_file)
    if settings.web_login:
        return Tokens(secret)
    if settings.web_host not in _LOOPBACK:
        raise ConfigurationError(
            f"without a login the page is for this computer alone, and not for {settings.web_host}: "
            "leave the login on, or listen at 127.0.0.1"
        )
    return NoLogin()


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.web_host, settings.web_port),
            family=socket.AF_INET6 if ":" in settings.web_host else socket.AF_INET,
        )
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while ")[0]  # after which Python names the address again
        raise ConfigurationError(
            f"cannot listen at {settings.web_host}:{settings.web_port}: {reason}. "
            "Take another port with --port, 0 for any that is free"
        ) from error


def _introduce(say: Callable[[str], None], base: str, keys: Credentials) -> None:
    say(f"web: ready at {base}/")
    if isinstance(keys, Tokens):
        for role, purpose in ((Role.OPERATOR, "to work"), (Role.VIEWER, "to look")):
            say(f"web: {purpose}: {login.login_url(base, keys.token(role))}")
