"""The web page as a server: the composition root."""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from nicegui import core, ui
from nicegui.client import Client as Page
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from broker.errors import ConfigurationError
from broker.instants import now, to_datetime
from broker.settings import Settings
from fluffle.web import chat, llms, login, questions, rejected, reports, submit, task, tasks
from fluffle.web.desk import Site
from fluffle.web.door import Door, Everybody, Keys, Passwords, Role, Tokens, kept_secret
from fluffle.web.gate import VISITOR, Gate
from fluffle.web.live import Live
from fluffle.web.notices import Notices
from fluffle.web.theme import RABBIT, STATIC, head

PAGES = (tasks, task, submit, llms, chat, questions, reports, rejected)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STOP_WITHIN = 2  # seconds for open requests
_RECONNECT_WITHIN = 20.0  # seconds that a page is kept for a browser that is cut off
_MESSAGES_KEPT = 200  # of each page, for the same


async def serve(settings: Settings, url: str, say: Callable[[str], None]) -> None:
    """Serve the page until SIGINT or SIGTERM. `say` is told where it is, as soon as it is there.

    Raises ConfigurationError when it must not or cannot listen there, BrokerUnreachable, AccessRefused.
    """
    secret = _secret(settings)
    keys = _keys(settings, secret)
    listening = _listen(settings)
    prefix = (settings.web_prefix or "").rstrip("/")
    door = Door(keys, secret=secret)
    async with Live(url) as live:
        notices = Notices(lambda: to_datetime(now()))
        live.listen({"task"}, notices.hear)
        server = _Server(uvicorn.Config(build(Site(live, door, notices, prefix)), log_config=None, **_UVICORN))
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, server.stop)
        host, port = listening.getsockname()[:2]
        _introduce(say, f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}", keys)
        await server.serve(sockets=[listening])


_UVICORN: dict[str, Any] = {
    "loop": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": _STOP_WITHIN,
}


def build(site: Site) -> GZipMiddleware:
    """The application with all pages. NiceGUI knows one per process."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    login.add(app, site.door, site.prefix)
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
        reconnect_timeout=_RECONNECT_WITHIN,
        message_history_length=_MESSAGES_KEPT,
        gzip_middleware_factory=None,  # the nonce goes into the page before it is compressed
        show_welcome_message=False,
    )
    return GZipMiddleware(Gate(app, site.door, prefix=site.prefix))


def _keep_sessions_apart() -> None:
    """A socket speaks for the pages of its own session only, whatever page it names.

    NiceGUI takes whoever knows the id of a page for its browser.
    """
    handlers = core.sio.handlers["/"]

    def session_of(scope: Scope) -> str | None:
        visitor = scope.get(VISITOR)
        return visitor.session if visitor else None

    def guarded(handle: Callable[..., Any]) -> Callable[..., Any]:
        async def handle_own(sid: str, message: Any, *rest: Any) -> Any:
            page = Page.instances.get(message.get("client_id", "")) if isinstance(message, dict) else None
            socket_scope = core.sio.get_environ(sid)["asgi.scope"]
            if page is None or session_of(page.request.scope) != session_of(socket_scope):
                return False
            outcome = handle(sid, message, *rest)
            return await outcome if asyncio.iscoroutine(outcome) else outcome

        return handle_own

    for name in ("handshake", "event", "javascript_response", "ack", "log"):
        handlers[name] = guarded(handlers[name])


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


def _keys(settings: Settings, secret: str) -> Keys:
    if settings.web_password_file is not None:
        return Passwords(settings.web_password_file)
    if settings.web_login:
        return Tokens(secret)
    if settings.web_host not in _LOOPBACK:
        raise ConfigurationError(
            f"without a login the page is for this computer alone, and not for {settings.web_host}: "
            "leave the login on, or listen at 127.0.0.1"
        )
    return Everybody()


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


def _introduce(say: Callable[[str], None], base: str, keys: Keys) -> None:
    say(f"web: ready at {base}/")
    if isinstance(keys, Tokens):
        for role, purpose in ((Role.OPERATOR, "to work"), (Role.VIEWER, "to look")):
            say(f"web: {purpose}: {login.login_url(base, keys.token(role))}")
