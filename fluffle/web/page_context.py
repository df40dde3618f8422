"""The services of one open page: its visitor, updates, changes on behalf of the visitor, and short notices."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from nicegui import ui
from nicegui.element import Element

from broker.errors import FluffleError
from fluffle.client.client import Client
from fluffle.web.access.auth import Authenticator, Visitor, session_cookie
from fluffle.web.components import HtmlElement
from fluffle.web.live import Live, RateLimitedRefresh, Reader, Update
from fluffle.web.notifications import Notifications

T = TypeVar("T")

TOAST_SECONDS = 8.0

_FIRST_PAINT_TIMEOUT_SECONDS = 1.5  # that a new page waits for the coordinator before it is shown
_FORBIDDEN = "You are a viewer and may not change anything"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedServices:
    """The services that all pages share."""

    live: Live
    auth: Authenticator
    notices: Notifications
    prefix: str = ""

    def url(self, path: str) -> str:
        """Return a path of this site as the browser requests it."""
        return self.prefix + path


class PageContext:
    """One open page of one visitor. Create it inside the function of the page."""

    def __init__(self, site: SharedServices) -> None:
        self.site = site
        self.client = ui.context.client
        self.toasts: Element | None = None
        self._cookies = self.client.request.headers.get("cookie", "")
        visitor = self._visitor()
        assert visitor is not None, "AccessMiddleware refuses requests without a session"
        self.visitor = visitor

    @property
    def reader(self) -> Reader:
        """The client, for reading."""
        return self.site.live.reader

    def url(self, path: str) -> str:
        """Return a path of this site as the browser requests it."""
        return self.site.url(path)

    def task_url(self, task_id: str) -> str:
        """Return the address of the page of a task."""
        return self.site.url(f"/tasks/{quote(task_id, safe='')}")

    # -- changes ---------------------------------------------------------------------------------------------------

    async def act(self, do: Callable[[Client], Awaitable[T]], done: str | Callable[[T], str] = "") -> T | None:
        """Make a change on behalf of the visitor and show the outcome. Returns None if it was refused or failed.

        Checks the visitor's role again: the page may have been open for a long time, and a browser may send anything.
        """
        visitor = self._visitor()
        if visitor is None or not visitor.may_change:
            self.say(_FORBIDDEN, "error")
            return None
        try:
            result = await do(self.site.live.client)
        except FluffleError as error:
            self.say(str(error), "error")
            return None
        if text := done if isinstance(done, str) else done(result):
            self.say(text)
        return result

    def _visitor(self) -> Visitor | None:
        return self.site.auth.visitor(session_cookie(self._cookies))

    def say(self, text: str, kind: str = "done", link: str | None = None) -> None:
        """Show the visitor a notice for a few seconds."""
        if self.toasts is None or self.client.is_deleted:
            return
        with self.toast(kind):
            HtmlElement("a", text, href=link) if link else HtmlElement("span", text)

    def toast(self, kind: str) -> HtmlElement:
        """Add an empty notice that disappears by itself."""
        assert self.toasts is not None, "the page has a frame"
        with self.toasts:
            made = HtmlElement("div", None, "toast", data_kind=kind)
        asyncio.get_running_loop().call_later(TOAST_SECONDS, _remove, made)
        return made

    def go(self, path: str) -> None:
        """Open another page."""
        self.client.open(path)

    # -- updates ---------------------------------------------------------------------------------------------------

    async def follow(
        self,
        refresh: Callable[[], Awaitable[None]],
        about: Collection[str],
        *,
        every: float = 0.5,
        matches: Callable[[Update], bool] = lambda update: True,
    ) -> None:
        """Refresh now, and while the page is open after each update of these kinds that `matches`.

        Refreshes at most once every `every` seconds, and again when the coordinator is back.
        """

        async def refresh_safely() -> None:
            if self._visitor() is None:
                return  # the session has ended; this page will be closed
            try:
                await refresh()
            except FluffleError as error:
                _log.debug("cannot refresh a page: %s", error)
            except Exception:
                _log.exception("cannot refresh a page")

        refreshing = RateLimitedRefresh(refresh_safely, every)

        def on_update(update: Update) -> None:
            if update.what == "missed" or (update.about in about and matches(update)):
                refreshing.nudge()

        first = asyncio.ensure_future(refresh_safely()) if self.site.live.trouble is None else None
        if first is not None:
            await asyncio.wait([first], timeout=_FIRST_PAINT_TIMEOUT_SECONDS)
        self.listen({*about, "state"}, on_update)
        self.client.on_connect(refreshing.nudge)
        self.run_while_open(refreshing.run())

    def listen(self, about: Collection[str], on_update: Callable[[Update], None]) -> None:
        """Call `on_update` with each update of these kinds while the page is open."""
        self.client.on_delete(self.site.live.listen(about, on_update))

    def run_while_open(self, work: Awaitable[None]) -> None:
        """Run `work` while the page is open."""
        running = asyncio.ensure_future(work)
        self.client.on_delete(lambda: running.cancel())


def _remove(element: Element) -> None:
    if not element.is_deleted and not element.client.is_deleted:
        element.delete()
