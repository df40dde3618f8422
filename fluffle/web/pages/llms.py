"""The LLMs: their state, skills and current tasks."""

from collections.abc import Callable, Coroutine
from typing import Any

from nicegui import ui

from broker.protocol.status import Status
from broker.protocol.views import LLMView, TaskView
from broker.protocol.worker_reports import skills_in_text
from fluffle.client.client import Client
from fluffle.presentation.llm_text import HEALTH, is_sick, last_error, last_hour, price, role, trouble
from fluffle.web.components import HtmlElement, ago, button, empty, status
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

_RUNNING = (Status.ASSIGNED, Status.IN_PROGRESS, Status.INPUT_REQUIRED)
_MAX_TASKS_SHOWN = 4  # of one LLM
_MAX_TASKS_ASKED = 200  # of all LLMs
_HEALTH_COLOURS = {"failing": "failing", "open": "circuit_open", "probing": "probing"}
_NO_FIGURES = {
    "completed": 0,
    "failed": 0,
    "tokens_per_second": None,
    "seconds_per_task": None,
    "cost_usd": None,
}
"""Figures of the last hour, which change all the time: they are updated without building the card again."""


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/llms")
    async def llms() -> None:
        context = PageContext(site)
        with frame(context, "llms", "LLMs"):
            await _LLMs(context).follow()


class _LLMs:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._cards: dict[str, tuple[HtmlElement, Any]] = {}
        self._seen: dict[str, HtmlElement] = {}
        self._last_hour: dict[str, HtmlElement] = {}
        self._place = HtmlElement("div", None, "llms")
        self._nothing = HtmlElement("div")

    async def follow(self) -> None:
        """Show the LLMs, and update them while the page is open."""
        await self._context.follow(self._refresh, {"task", "llm", "state"}, every=1.0)

    async def _refresh(self) -> None:
        llms = self._context.site.live.llms
        running = [view async for view in self._context.reader.tasks(status=_RUNNING, limit=_MAX_TASKS_ASKED)]
        self._nothing.clear()
        if not llms:
            with self._nothing:
                empty("No LLMs yet", "Start one with `fluffle worker ada --model demo --skills summarise`.")
        for name in self._cards.keys() - {llm.name for llm in llms}:
            self._cards.pop(name)[0].delete()
        for llm in llms:
            tasks = [view for view in running if view.llm == llm.name]
            self._show(llm, tasks)

    def _show(self, llm: LLMView, tasks: list[TaskView]) -> None:
        """Rebuild the card of an LLM only if it has changed: its buttons keep the focus."""
        health = llm.health.model_copy(update=_NO_FIGURES)
        content = (
            llm.model_copy(update={"last_seen": None, "health": health}),
            [(view.id, view.status) for view in tasks],
        )
        card, shown = self._cards.get(llm.name, (None, None))
        if shown == content:
            self._seen[llm.name].props["datetime"] = llm.last_seen.isoformat() if llm.last_seen else None
            self._last_hour[llm.name].set_text(_last_hour(llm))
            return
        if card is None:
            with self._place:
                card = HtmlElement("section", None, "card llm", id=llm.name, data_llm=llm.name)
        self._cards[llm.name] = (card, content)
        card.clear()
        card.classes(add="sick" if is_sick(llm) else "", remove="" if is_sick(llm) else "sick")
        with card:
            self._build_card(llm, tasks)

    def _build_card(self, llm: LLMView, tasks: list[TaskView]) -> None:
        with HtmlElement("div", None, "llm-head"):
            HtmlElement("h2", llm.name)
            status(llm.state)
            if llm.health.state != "healthy":
                status(_HEALTH_COLOURS[llm.health.state], HEALTH[llm.health.state])
            HtmlElement("span", None, "stretch")
            with HtmlElement("span", "seen ", "muted"):
                self._seen[llm.name] = ago(llm.last_seen)
        HtmlElement("p", " · ".join(part for part in (llm.model, llm.description) if part), "muted model")
        for it in llm.by_instance:
            text = f"{it.id}: {it.model or 'no model'}, {skills_in_text(it.skills) or 'no skills'}, slots {it.slots}"
            HtmlElement("p", text, "muted differs")
        self._build_health(llm)
        self._build_load(llm)
        self._last_hour[llm.name] = HtmlElement("p", _last_hour(llm), "muted last-hour")
        self._build_properties(llm)
        with HtmlElement("ul", None, "skills", aria_label="Skills"):
            for skill, level in sorted(llm.skills.items(), key=lambda pair: (-pair[1], pair[0])):
                with HtmlElement("li", None, title=f"{skill}: {level:g}"):
                    HtmlElement("span", skill)
                    HtmlElement("i", None, style=f"--level:{level:.2f}", aria_hidden="true")
        if tasks:
            with HtmlElement("ul", None, "doing", aria_label="Current tasks"):
                for view in tasks[:_MAX_TASKS_SHOWN]:
                    with HtmlElement("li"):
                        status(view.status.value)
                        HtmlElement("a", view.description, href=self._context.task_url(view.id))
                        if since := llm.quiet.get(view.id):
                            with HtmlElement("span", "no text since ", "muted quiet-since"):
                                ago(since)
        elif llm.state == "online":
            HtmlElement("p", "No tasks", "muted doing")
        with HtmlElement("div", None, "llm-actions"):
            HtmlElement("a", "Its tasks", "button quiet", href=self._context.url(f"/?llm={llm.name}"))
            HtmlElement("a", "Chat", "button quiet", href=self._context.url(f"/chat/{llm.name}"))
            if self._context.visitor.may_change:
                self._build_actions(llm)

    def _build_health(self, llm: LLMView) -> None:
        """Add what is wrong with the LLM, if anything is."""
        health = llm.health
        if why := trouble(llm):
            with HtmlElement("p", None, "why"):
                HtmlElement("span", why)
                if health.next_probe is not None and is_sick(llm):
                    HtmlElement("span", ", next probe ")
                    ago(health.next_probe)
        if health.last_error is not None and (health.failed or health.state != "healthy"):
            with HtmlElement("p", None, "muted last-error"):
                HtmlElement("span", f"Last error: {last_error(health)}, ")
                ago(health.last_error.at)

    def _build_properties(self, llm: LLMView) -> None:
        with HtmlElement("p", None, "muted properties"):
            if llm.limit:
                HtmlElement("a", f"limit {llm.limit}", href=self._context.url(f"/budgets#{llm.limit}"))
            facts = (
                f"price {price(llm.price)}",
                f"reserve: {role(llm)}" if llm.reserve else "",
                f"context window {llm.context_window:,} tokens" if llm.context_window else "",
                f"can use {', '.join(llm.abilities)}" if llm.abilities else "",
            )
            text = " · ".join(part for part in facts if part)
            HtmlElement("span", f" · {text}" if llm.limit else text)

    def _build_load(self, llm: LLMView) -> None:
        with HtmlElement("div", None, "load"):
            with HtmlElement("div", None, "meter", aria_hidden="true"):
                for slot in range(min(llm.slots, 24)):
                    HtmlElement("i", None, "taken" if slot < llm.in_hand else "")
            more = f", {llm.parked} parked" if llm.parked else ""
            HtmlElement("span", f"{llm.in_hand} of {llm.slots} slot{'' if llm.slots == 1 else 's'} busy{more}")

    def _build_actions(self, llm: LLMView) -> None:
        name = llm.name
        if llm.paused or is_sick(llm):
            button("Resume", lambda: self._do(lambda client: client.resume(name), f"{name} resumed"), "primary")
        if not llm.paused:
            button("Pause", lambda: self._do(lambda client: client.pause(name), f"{name} gets no new tasks"))
        if llm.instances and llm.state != "draining":
            button("Drain", lambda: self._do(lambda client: client.drain(name), f"{name} finishes its tasks and ends"))
        if llm.state == "offline" and not llm.tasks:
            button("Forget", lambda: self._forget(name), "quiet")

    async def _forget(self, name: str) -> None:
        if await self._context.act(lambda client: client.forget(name), f"{name} removed") is not None:
            live = self._context.site.live
            live.llms = [llm for llm in live.llms if llm.name != name]
            await self._refresh()

    async def _do(self, do: Callable[[Client], Coroutine[Any, Any, LLMView]], done: str) -> None:
        changed = await self._context.act(do, done)
        if changed is not None:
            llms = self._context.site.live.llms
            self._context.site.live.llms = [changed if llm.name == changed.name else llm for llm in llms]
            await self._refresh()


def _last_hour(llm: LLMView) -> str:
    text = last_hour(llm.health)
    return f"Last hour: {text}" if text else ""
