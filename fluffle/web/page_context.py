"""What a page works with: who looks at it, what it hears, what it may do, and how it says so."""

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
from fluffle.web.live import Live, Paced, Reader, Update
from fluffle.web.notifications import Notifications

T = TypeVar("T")

TOAST_SECONDS = 8.0  # seconds

_FIRST_PAINT_TIMEOUT_SECONDS = 1.5  # seconds that the first paint waits for the coordinator
_FORBIDDEN = "You may look, but not change anything"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedServices:
    """What all pages share."""

    live: Live
    auth: Authenticator
    notices: Notifications
    prefix: str = ""

    def url(self, path: str) -> str:
        """A path of ours as the browser asks for it."""
        return self.prefix + path


class PageContext:
    """One open page of one visitor. It is made inside the function of the page."""

    def __init__(self, site: SharedServices) -> None:
        self.site = site
        self.client = ui.context.client
        self.toasts: Element | None = None
        self._cookies = self.client.request.headers.get("cookie", "")
        visitor = self._visitor()
        assert visitor is not None, "the gate lets nobody through without a session"
        self.visitor = visitor

    @property
    def books(self) -> Reader:
        """What the coordinator knows, to read."""
        return self.site.live.books

    def url(self, path: str) -> str:
        """A path of ours as the browser asks for it."""
        return self.site.url(path)

    def task_url(self, task_id: str) -> str:
        """Where a task is shown."""
        return self.site.url(f"/tasks/{quote(task_id, safe='')}")

    # -- doing -----------------------------------------------------------------------------------------------------

    async def act(self, do: Callable[[Client], Awaitable[T]], done: str | Callable[[T], str] = "") -> T | None:
        """Do something on behalf of the visitor and say how it went. None when it was refused or failed.

        It is asked again who the visitor is: a page may have been open for long, and whatever a browser sends, it may
        have been written by hand.
        """
        visitor = self._visitor()
        if visitor is None or not visitor.may_change:
            self.say(_FORBIDDEN, "error")
            return None
        try:
            result = await do(self.site.live.hands)
        except FluffleError as error:
            self.say(str(error), "error")
            return None
        if said := done if isinstance(done, str) else done(result):
            self.say(said)
        return result

    def _visitor(self) -> Visitor | None:
        return self.site.auth.visitor(session_cookie(self._cookies))

    def say(self, text: str, kind: str = "done", link: str | None = None) -> None:
        """Tell the visitor something, for a moment."""
        if self.toasts is None or self.client.is_deleted:
            return
        with self.toast(kind):
            HtmlElement("a", text, href=link) if link else HtmlElement("span", text)

    def toast(self, kind: str) -> HtmlElement:
        """A place for something to tell, which goes away by itself."""
        assert self.toasts is not None, "the page has its frame"
        with self.toasts:
            made = HtmlElement("div", None, "toast", data_kind=kind)
        asyncio.get_running_loop().call_later(TOAST_SECONDS, _remove, made)
        return made

    def go(self, path: str) -> None:
        """Show another page."""
        self.client.open(path)

    # -- hearing ---------------------------------------------------------------------------------------------------

    async def follow(
        self,
        refresh: Callable[[], Awaitable[None]],
        about: Collection[str],
        *,
        every: float = 0.5,
        fits: Callable[[Update], bool] = lambda told: True,
    ) -> None:
        """Refresh now, and as long as the page is open after what is told about these and `fits`.

        What the coordinator does not answer now is shown when it is back. Not more often than each `every` seconds.
        """

        async def look() -> None:
            if self._visitor() is None:
                return  # this page is about to be closed
            try:
                await refresh()
            except FluffleError as error:
                _log.debug("a page cannot be refreshed: %s", error)
            except Exception:
                _log.exception("a page cannot be refreshed")

        paced = Paced(look, every)

        def hear(told: Update) -> None:
            if told.what == "missed" or (told.about in about and fits(told)):
                paced.nudge()

        first = asyncio.ensure_future(look()) if self.site.live.trouble is None else None
        if first is not None:
            await asyncio.wait([first], timeout=_FIRST_PAINT_TIMEOUT_SECONDS)
        self.hear({*about, "state"}, hear)
        self.client.on_connect(paced.nudge)
        self.keep(paced.run())

    def hear(self, about: Collection[str], hear: Callable[[Update], None]) -> None:
        """Call `hear` with what is told about these, as long as the page is open."""
        self.client.on_delete(self.site.live.listen(about, hear))

    def keep(self, work: Awaitable[None]) -> None:
        """Run this as long as the page is open."""
        running = asyncio.ensure_future(work)
        self.client.on_delete(lambda: running.cancel())


def _remove(element: Element) -> None:
    if not element.is_deleted and not element.client.is_deleted:
        element.delete()
