"""The rule that a WebSocket speaks only for the pages of its own session.

NiceGUI accepts messages from everyone who knows the id of a page.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from nicegui import core
from nicegui.client import Client as Page
from socketio import exceptions
from starlette.types import Scope

from fluffle.web.access.middleware import VISITOR

_GUARDED_EVENTS = ("handshake", "event", "javascript_response", "ack")

_log = logging.getLogger(__name__)


def guard_sockets() -> None:
    """Wrap NiceGUI's socket handlers so that they ignore messages for pages of other sessions."""
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
            except (LookupError, TypeError, ValueError, AttributeError) as error:  # NiceGUI does not check messages
                _log.debug("ignored a malformed message from a browser: %s", type(error).__name__)
                return False

        return handle_own

    handlers["connect"] = connect_own
    for name in _GUARDED_EVENTS:
        handlers[name] = guarded(handlers[name])
    handlers["log"] = lambda sid, message=None: None  # visitors cannot write into the log of this process


def _is_own(page_id: Any, scope: Scope) -> bool:
    """Return whether a page belongs to the session that opened the socket."""
    page = Page.instances.get(page_id) if isinstance(page_id, str) else None
    if page is None:
        return False
    owner, visitor = (it.get(VISITOR) for it in (page.request.scope, scope))
    return owner is not None and visitor is not None and owner.session == visitor.session
