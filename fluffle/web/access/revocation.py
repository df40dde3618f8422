"""Closing the open pages of visitors who may not look at them any more, or whose role has changed."""

import asyncio
import logging

from nicegui import core
from nicegui.client import Client as Page

from fluffle.web.access.auth import Authenticator, session_cookie
from fluffle.web.access.middleware import VISITOR

CHECK_INTERVAL_SECONDS = 0.5  # seconds

_log = logging.getLogger(__name__)


async def close_revoked_pages(auth: Authenticator, prefix: str) -> None:
    """Look after all open pages, without end."""
    while True:
        await asyncio.sleep(CHECK_INTERVAL_SECONDS)
        for page in list(Page.instances.values()):
            if may_stay(page, auth):
                continue
            _log.info("closed a page whose visitor may not look at it any more")
            message = {"path": f"{prefix}/login", "new_tab": False, "_id": page.outbox.next_message_id}
            await core.sio.emit("open", message, room=page.id)
            if page.id in Page.instances:
                page.delete()


def may_stay(page: Page, auth: Authenticator) -> bool:
    """Whether the session of a page is still good, and of the role that the page was made for."""
    try:
        request = page.request
    except RuntimeError:
        return True  # a page that NiceGUI keeps for itself
    then, now = request.scope.get(VISITOR), auth.visitor(session_cookie(request.headers.get("cookie", "")))
    return then is not None and now is not None and now.role is then.role
