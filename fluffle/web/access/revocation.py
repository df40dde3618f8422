"""Closing of open pages whose visitor has lost the session or has a new role."""

import asyncio
import logging

from nicegui import core
from nicegui.client import Client as Page

from fluffle.web.access.auth import Authenticator, session_cookie
from fluffle.web.access.middleware import VISITOR

CHECK_INTERVAL_SECONDS = 0.5

_log = logging.getLogger(__name__)


async def close_revoked_pages(auth: Authenticator, prefix: str) -> None:
    """Check all open pages until cancelled."""
    while True:
        await asyncio.sleep(CHECK_INTERVAL_SECONDS)
        for page in list(Page.instances.values()):
            if may_stay(page, auth):
                continue
            _log.info("closed a page: its visitor has lost access")
            message = {"path": f"{prefix}/login", "new_tab": False, "_id": page.outbox.next_message_id}
            await core.sio.emit("open", message, room=page.id)
            if page.id in Page.instances:
                page.delete()


def may_stay(page: Page, auth: Authenticator) -> bool:
    """Return whether the session of a page is valid and has the role for which the page was built."""
    try:
        request = page.request
    except RuntimeError:
        return True  # an internal page of NiceGUI
    then, now = request.scope.get(VISITOR), auth.visitor(session_cookie(request.headers.get("cookie", "")))
    return then is not None and now is not None and now.role is then.role
