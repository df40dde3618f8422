"""The LLMs: who is there, what they can do, what they do now."""

from collections.abc import Callable, Coroutine
from typing import Any

from nicegui import ui

from broker.protocol.status import Status
from broker.protocol.views import LLMView, TaskView
from broker.protocol.worker_reports import skills_in_text
from fluffle.client.client import Client
from fluffle.web.components import HtmlElement, ago, button, empty, status
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

_AT_WORK = (Status.ASSIGNED, Status.IN_PROGRESS, Status.INPUT_REQUIRED)
_MOST_SHOWN = 4  # tasks of one LLM
_MOST_TASKS = 200  # of all


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/llms")
    async def llms() -> None:
        context = PageContext(site)
        with frame(context, "llms", "LLMs"):
            await _LLMs(context).build()


class _LLMs:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._cards: dict[str, tuple[HtmlElement, Any]] = {}
        self._seen: dict[str, HtmlElement] = {}

    async def build(self) -> None:
        """Show them, and follow what they do."""
        self._place = HtmlElement("div", None, "llms")
        self._nothing = HtmlElement("div")
        await self._context.follow(self._refresh, {"task", "llm", "state"}, every=1.0)

    async def _refresh(self) -> None:
        llms = self._context.site.live.llms
        at_work = [view async for view in self._context.books.tasks(status=_AT_WORK, limit=_MOST_TASKS)]
        self._nothing.clear()
        if not llms:
            with self._nothing:
                empty("No LLM has come yet", "Start one: `fluffle worker ada --model demo --skills summarise`.")
        for name in self._cards.keys() - {llm.name for llm in llms}:
            self._cards.pop(name)[0].delete()
        for llm in llms:
            tasks = [view for view in at_work if view.llm == llm.name]
            self._show(llm, tasks)

    def _show(self, llm: LLMView, tasks: list[TaskView]) -> None:
        """Make its card anew, but only when something has changed: what has the focus keeps it."""
        content = (llm.model_copy(update={"last_seen": None}), [(view.id, view.status) for view in tasks])
        card, shown = self._cards.get(llm.name, (None, None))
        if shown == content:
            self._seen[llm.name].props["datetime"] = llm.last_seen.isoformat() if llm.last_seen else None
            return
        if card is None:
            with self._place:
                card = HtmlElement("section", None, "card llm", id=llm.name, data_llm=llm.name)
        self._cards[llm.name] = (card, content)
        card.clear()
        with card:
            self._build_card(llm, tasks)

    def _build_card(self, llm: LLMView, tasks: list[TaskView]) -> None:
        with HtmlElement("div", None, "llm-head"):
            HtmlElement("h2", llm.name)
            status(llm.state)
            HtmlElement("span", None, "stretch")
            with HtmlElement("span", "seen ", "muted"):
                self._seen[llm.name] = ago(llm.last_seen)
        HtmlElement("p", " · ".join(part for part in (llm.model, llm.description) if part), "muted model")
        for it in llm.by_instance:
            told = f"{it.id}: {it.model or 'no model'}, {skills_in_text(it.skills) or 'no skills'}, slots {it.slots}"
            HtmlElement("p", told, "muted differs")
        self._build_load(llm)
        with HtmlElement("ul", None, "skills", aria_label="Skills"):
            for skill, level in sorted(llm.skills.items(), key=lambda pair: (-pair[1], pair[0])):
                with HtmlElement("li", None, title=f"{skill}: {level:g}"):
                    HtmlElement("span", skill)
                    HtmlElement("i", None, style=f"--level:{level:.2f}", aria_hidden="true")
        if tasks:
            with HtmlElement("ul", None, "doing", aria_label="At work on"):
                for view in tasks[:_MOST_SHOWN]:
                    with HtmlElement("li"):
                        status(view.status.value)
                        HtmlElement("a", view.description, href=self._context.task_url(view.id))
                        if since := llm.quiet.get(view.id):
                            with HtmlElement("span", "no text since ", "muted quiet-since"):
                                ago(since)
        elif llm.state == "online":
            HtmlElement("p", "Waiting for work", "muted doing")
        with HtmlElement("div", None, "llm-actions"):
            HtmlElement("a", "Its tasks", "button quiet", href=self._context.url(f"/?llm={llm.name}"))
            HtmlElement("a", "Chat", "button quiet", href=self._context.url(f"/chat/{llm.name}"))
            if self._context.visitor.may_change:
                self._build_actions(llm)

    def _build_load(self, llm: LLMView) -> None:
        with HtmlElement("div", None, "load"):
            with HtmlElement("div", None, "meter", aria_hidden="true"):
                for slot in range(min(llm.slots, 24)):
                    HtmlElement("i", None, "taken" if slot < llm.in_hand else "")
            more = f", {llm.parked} parked" if llm.parked else ""
            HtmlElement("span", f"{llm.in_hand} of {llm.slots} slot{'' if llm.slots == 1 else 's'} busy{more}")

    def _build_actions(self, llm: LLMView) -> None:
        name = llm.name
        if llm.paused:
            button("Resume", lambda: self._do(lambda client: client.resume(name), f"{name} works again"), "primary")
        else:
            button("Pause", lambda: self._do(lambda client: client.pause(name), f"{name} gets nothing new"))
        if llm.instances and llm.state != "draining":
            button("Drain", lambda: self._do(lambda client: client.drain(name), f"{name} finishes and leaves"))
        if llm.state == "offline" and not llm.tasks:
            button("Forget", lambda: self._forget(name), "quiet")

    async def _forget(self, name: str) -> None:
        if await self._context.act(lambda client: client.forget(name), f"{name} is forgotten") is not None:
            live = self._context.site.live
            live.llms = [llm for llm in live.llms if llm.name != name]
            await self._refresh()

    async def _do(self, do: Callable[[Client], Coroutine[Any, Any, LLMView]], done: str) -> None:
        changed = await self._context.act(do, done)
        if changed is not None:
            llms = self._context.site.live.llms
            self._context.site.live.llms = [changed if llm.name == changed.name else llm for llm in llms]
            await self._refresh()
