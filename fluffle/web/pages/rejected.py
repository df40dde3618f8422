"""Rejected messages: the reason, the body, and buttons to requeue or drop them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from nicegui import ui

from broker.errors import RequestError
from fluffle.client.client import Client
from fluffle.client.rejected_queue import RejectedMessage, RejectedQueue, opened
from fluffle.web.components import HtmlElement, ago, button, empty, rendered
from fluffle.web.layout import frame
from fluffle.web.markdown import preformatted
from fluffle.web.page_context import PageContext, SharedServices

MAX_MESSAGES_SHOWN = 100

_MAX_BODY_CHARACTERS = 20_000


def add(site: SharedServices) -> None:
    """Add the page."""
    reading = asyncio.Lock()  # while one page reads the queue, RabbitMQ gives its messages to no other

    @ui.page("/rejected")
    async def rejected() -> None:
        context = PageContext(site)
        with frame(context, "rejected", "Rejected") as actions:
            await _Rejected(context, reading, actions).follow()


class _Rejected:
    def __init__(self, context: PageContext, reading: asyncio.Lock, actions: HtmlElement) -> None:
        self._context = context
        self._reading = reading
        self._shown: list[str] | None = None
        with actions:
            button("Refresh", self._refresh)
        self._place = HtmlElement("div", None, "rejected")

    async def follow(self) -> None:
        """Show the messages, and update them while the page is open."""
        await self._context.follow(self._refresh, {"task"}, every=2.0, matches=lambda update: update.what == "rejected")

    async def _refresh(self) -> None:
        async with self._reading, self._queue() as queue:
            messages = await queue.look(MAX_MESSAGES_SHOWN)
        ids = [message.id for message in messages]
        if ids == self._shown:
            return
        self._shown = ids
        self._place.clear()
        with self._place:
            if not messages:
                advice = "Messages that break the protocol, or that RabbitMQ could not put in any queue, are kept here."
                empty("No rejected messages", advice)
            for message in messages:
                self._build(message)

    def _build(self, message: RejectedMessage) -> None:
        with HtmlElement("article", None, "card reject", data_id=message.id):
            with HtmlElement("div", None, "reject-head"):
                HtmlElement("code", message.id)
                HtmlElement("span", f"{message.exchange} · {message.routing_key}", "muted")
                HtmlElement("span", None, "stretch")
                ago(message.at)
            with HtmlElement("ul", None, "errors"):
                for why in [f"{w.path}: {w.message}" if w.path else w.message for w in message.errors] or [message.why]:
                    HtmlElement("li", why)
            with HtmlElement("details"):
                HtmlElement("summary", f"Body ({len(message.delivery.body):,} bytes)")
                rendered(preformatted(message.delivery.body.decode(errors="backslashreplace")[:_MAX_BODY_CHARACTERS]))
            if self._context.visitor.may_change:
                with HtmlElement("div", None, "reject-actions"):
                    button("Requeue", lambda: self._settle(message.id, _requeue, "Requeued"), "primary")
                    button("Drop", lambda: self._settle(message.id, _drop, "Dropped"), "danger")

    async def _settle(
        self, id_: str, settle: Callable[[RejectedQueue, RejectedMessage], Awaitable[None]], done: str
    ) -> None:
        """Requeue or drop the message."""

        async def find_and_settle(_: Client) -> int:
            async with self._reading, self._queue() as queue:
                found = [message for message in await queue.look() if message.id == id_]
                if not found:
                    raise RequestError(f"the rejected message {id_} is no longer in the queue")
                await settle(queue, found[0])
                return 1

        await self._context.act(find_and_settle, done)
        await self._refresh()

    def _queue(self) -> AbstractAsyncContextManager[RejectedQueue]:
        return opened(self._context.site.live.url, name="fluffle web (rejected)")


async def _requeue(queue: RejectedQueue, message: RejectedMessage) -> None:
    [problem] = await queue.requeue([message])
    if problem is not None:
        raise problem


async def _drop(queue: RejectedQueue, message: RejectedMessage) -> None:
    await queue.drop([message])
