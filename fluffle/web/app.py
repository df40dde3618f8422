"""The web page as a server: the composition root."""

import asyncio
import logging
import re
import signal
import socket
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from nicegui import core, ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from broker.errors import ConfigurationError
from broker.timestamps import now, to_datetime
from fluffle.web.access import login
from fluffle.web.access.auth import Authenticator, Credentials, NoLogin, Passwords, Role, Tokens, kept_secret
from fluffle.web.access.connections import BoundedBodies, RepeatFilter, uvicorn_settings
from fluffle.web.access.middleware import AccessMiddleware
from fluffle.web.access.revocation import close_revoked_pages
from fluffle.web.access.sessions import EndedSessions
from fluffle.web.access.sockets import guard_sockets
from fluffle.web.assets import RABBIT, STATIC, head
from fluffle.web.live import Live
from fluffle.web.notifications import Notifications
from fluffle.web.page_context import SharedServices
from fluffle.web.pages import budgets, chat, llms, questions, rejected, reports, submit, task, tasks

PAGES = (tasks, task, submit, llms, chat, questions, reports, budgets, rejected)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STOP_TIMEOUT_SECONDS = 2  # for open requests
_RECONNECT_TIMEOUT_SECONDS = 20.0  # that a page is kept for a browser that lost its connection
_MAX_MESSAGES_KEPT = 200  # of each page, for the same purpose

_UVICORN: dict[str, Any] = {
    "loop": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": _STOP_TIMEOUT_SECONDS,
    **uvicorn_settings(),
}


def build_web(
    url: str,
    *,
    state_dir: Path,
    host: str = "127.0.0.1",
    port: int = 8480,
    prefix: str = "",
    token: str | None = None,
    password_file: Path | None = None,
    require_login: bool = True,
    require_identity: bool = False,
) -> "WebServer":
    """Build the web page for the RabbitMQ at `url`, with its socket already listening at `host` and `port`.

    `port` 0 takes any free port. `prefix` is the path under which a proxy shows the page. People log in by
    `password_file`, or else by `token`; without a token, one is kept in `state_dir`. `require_identity` accepts
    messages of LLMs only from their own RabbitMQ users.

    Raises ConfigurationError when an argument is wrong or the address cannot be listened at.
    """
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", prefix):
        raise ConfigurationError(f"the prefix of the web page must be a path such as /fluffle, not {prefix!r}")
    secret = token if token is not None else kept_secret(state_dir / "web.token")
    credentials = _credentials(secret, password_file, host, require_login=require_login)
    return WebServer(
        _listen(host, port),
        Live(url, require_identity=require_identity),
        Authenticator(credentials, secret=secret, ended=EndedSessions(state_dir / "web.ended")),
        credentials,
        prefix.rstrip("/"),
    )


class WebServer:
    """The web page, ready to serve. One process can run one, because NiceGUI has one application per process."""

    def __init__(
        self, listening: socket.socket, live: Live, auth: Authenticator, credentials: Credentials, prefix: str
    ) -> None:
        self._listening = listening
        self._live = live
        self._auth = auth
        self._credentials = credentials
        self._prefix = prefix

    async def serve(self, say: Callable[[str], None]) -> None:
        """Serve the page until SIGINT or SIGTERM. `say` receives the addresses as soon as the page is ready.

        Raises BrokerUnreachable or AccessRefused.
        """
        async with self._live as live:
            notices = Notifications(lambda: to_datetime(now()))
            live.listen({"task", "llm", "limit", "budget"}, notices.on_update)
            application = build_application(SharedServices(live, self._auth, notices, self._prefix))
            server = _Server(uvicorn.Config(application, log_config=None, **_UVICORN))
            for logger in ("asyncio", "uvicorn.error"):
                logging.getLogger(logger).addFilter(RepeatFilter())
            for signum in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(signum, server.stop)
            closing = asyncio.create_task(close_revoked_pages(self._auth, self._prefix))
            self._introduce(say)
            try:
                await server.serve(sockets=[self._listening])
            finally:
                closing.cancel()

    def _introduce(self, say: Callable[[str], None]) -> None:
        host, port = self._listening.getsockname()[:2]
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}{self._prefix}"
        say(f"web: ready at {base}/")
        if isinstance(self._credentials, Tokens):
            for role, purpose in ((Role.OPERATOR, "to work"), (Role.VIEWER, "to look")):
                say(f"web: {purpose}: {login.login_url(base, self._credentials.token(role))}")


def build_application(site: SharedServices) -> GZipMiddleware:
    """Build the ASGI application with all pages."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=STATIC))
    login.add(app, site.auth, site.prefix)
    for page in PAGES:
        page.add(site)
    reports.add_downloads(app, site)
    guard_sockets()
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
        message_history_length=_MAX_MESSAGES_KEPT,
        gzip_middleware_factory=None,  # the nonce goes into the page before it is compressed
        show_welcome_message=False,
    )
    core.sio.eio.cors_allowed_origins = []  # NiceGUI allows every origin; AccessMiddleware allows this site's
    return GZipMiddleware(BoundedBodies(AccessMiddleware(app, site.auth, prefix=site.prefix)))


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop(self) -> None:
        """Stop the server; at the second call, without waiting for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _credentials(secret: str, password_file: Path | None, host: str, *, require_login: bool) -> Credentials:
    if password_file is not None:
        return Passwords(password_file)
    if require_login:
        return Tokens(secret)
    if host not in _LOOPBACK:
        raise ConfigurationError(f"cannot listen at {host} without a login: require a login, or listen at 127.0.0.1")
    return NoLogin()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while ")[0]  # Python repeats the address after it
        raise ConfigurationError(
            f"cannot listen at {host}:{port}: {reason}. Choose another port with --port; 0 takes any free port"
        ) from error
