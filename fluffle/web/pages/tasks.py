"""The list of tasks: filters, pages, and actions for several tasks at once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from nicegui import ui

from broker.errors import RequestError
from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.client.client import Client
from fluffle.presentation.durations import duration
from fluffle.presentation.task_text import waiting_for
from fluffle.web.components import Grid, HtmlElement, Pairs, button, empty, form, icon, on_entry, options
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices
from fluffle.web.pages.task_filters import TaskFilter

COLUMNS = (
    ("task", "Task", "task"),
    ("status", "Status", "status"),
    ("llm", "LLM", "llm"),
    ("labels", "Labels", "tags"),
    ("submitted", "Submitted", "ago"),
    ("took", "Took", "number"),
)


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/")
    async def tasks() -> None:
        context = PageContext(site)
        with frame(context, "tasks", "Tasks") as actions:
            if context.visitor.may_change:
                with actions, HtmlElement("a", None, "button primary", href=context.url("/new"), accesskey="n"):
                    icon("new")
                    HtmlElement("span", "New task")
            await _List(context).follow()


class _List:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._filter = TaskFilter.read(context.client.request.query_params.multi_items())
        self._selected: list[str] = []
        self._next: int | None = None
        self._build_filter()
        may_change = context.visitor.may_change
        self._actions = self._build_actions() if may_change else None
        self._grid = Grid(COLUMNS, label="Tasks", on_pick=self._select if may_change else None)
        self._nothing = HtmlElement("div")
        with HtmlElement("div", None, "pager"):
            self._newest = button("Newest", self._show_newest)
            self._older = button("Older", self._show_older)

    async def follow(self) -> None:
        """Show the tasks, and update them while the page is open."""
        await self._context.follow(self._refresh, {"task", "limit", "budget"})

    # -- filter ----------------------------------------------------------------------------------------------------

    def _build_filter(self) -> None:
        chosen = self._filter
        with form(self._filtered, "filter", role="search", aria_label="Filter tasks") as made:
            with HtmlElement("fieldset", None, "chips"):
                HtmlElement("legend", "Status", "hidden")
                for status in Status:
                    with HtmlElement("label", None, "chip", data_status=status.value):
                        checked = status in chosen.status
                        HtmlElement("input", type="checkbox", name="status", value=status.value, checked=checked)
                        HtmlElement("span", status.value.replace("_", " "))
            with HtmlElement("div", None, "filter-fields"):
                with HtmlElement("select", name="llm", aria_label="LLM"):
                    names = sorted({llm.name for llm in self._context.site.live.llms} | ({chosen.llm} - {""}))
                    options([("", "Any LLM"), *((name, name) for name in names)], chosen.llm)
                HtmlElement(
                    "input", name="label", placeholder="Label", aria_label="Label", defaultValue=" ".join(chosen.labels)
                )
                HtmlElement(
                    "input",
                    name="text",
                    type="search",
                    placeholder="Search descriptions",
                    aria_label="Search descriptions",
                    defaultValue=chosen.text,
                    data_key="/",
                )
        on_entry(made, self._filtered, pause=0.3)

    async def _filtered(self, pairs: Pairs) -> None:
        await self._show(TaskFilter.read(pairs))

    async def _show_newest(self) -> None:
        await self._show(replace(self._filter, before=None))

    async def _show_older(self) -> None:
        await self._show(replace(self._filter, before=self._next))

    async def _show(self, wanted: TaskFilter) -> None:
        if wanted == self._filter:
            return
        self._filter = wanted
        if self._context.visitor.may_change:
            self._grid.unpick()
        ui.run_javascript(f"fluffle.remember({wanted.query()!r})")
        await self._refresh()

    async def _refresh(self) -> None:
        wanted = self._filter
        page = await self._context.reader.task_page(**wanted.asked())
        if wanted != self._filter:  # the filter has changed meanwhile
            return
        self._next = page.next
        self._grid.show([self._row(view) for view in page.tasks])
        self._grid.set_visibility(bool(page.tasks))
        self._newest.set_visibility(wanted.before is not None)
        self._older.set_visibility(page.next is not None)
        self._nothing.clear()
        if not page.tasks:
            with self._nothing:
                self._say_nothing()

    def _say_nothing(self) -> None:
        if not self._filter.is_empty or self._filter.before is not None:
            empty(
                "No tasks match",
                "Remove a status, the LLM or a word from the filter.",
                link=("Show all", self._context.url("/")),
            )
        elif self._context.visitor.may_change:
            advice = "Submit the first one here, or with `fluffle task submit` on the command line."
            empty("No tasks yet", advice, link=("New task", self._context.url("/new")))
        else:
            empty("No tasks yet", "Tasks appear here as soon as they are submitted.")

    def _row(self, view: TaskView) -> dict[str, Any]:
        return {
            "id": view.id,
            "task": {"text": view.description, "href": self._context.task_url(view.id), "note": view.id},
            "status": {"value": view.status.value, "note": waiting_for(view), "overdue": view.overdue},
            "llm": {
                "text": view.llm or "",
                "href": self._context.url(f"/llms#{view.llm}"),
                "wanted": view.assignee or "",
            },
            "labels": view.labels,
            "submitted": view.submitted_at.isoformat(),
            "took": took(view),
        }

    # -- actions ---------------------------------------------------------------------------------------------------

    def _build_actions(self) -> tuple[HtmlElement, HtmlElement]:
        """Build the form for the selected tasks. Returns the form and the element for their number."""
        with form(self._assign, "bulk", aria_label="Selected tasks") as made:
            count = HtmlElement("strong", "")
            with HtmlElement("select", name="llm", aria_label="LLM to assign to"):
                options((llm.name, f"{llm.name} ({llm.state})") for llm in self._context.site.live.llms)
            HtmlElement("button", "Assign", "button primary")
            with HtmlElement(
                "label", None, "check", title="Stop tasks that run at other LLMs and start them again at this one"
            ):
                HtmlElement("input", type="checkbox", name="now", value="yes")
                HtmlElement("span", "move running ones")
            HtmlElement("span", None, "stretch")
            button("Retry", self._retry)
            button("Cancel", self._cancel, "danger")
            button("Clear", self._clear_selection, "quiet")
        made.set_visibility(False)
        return made, count

    def _clear_selection(self) -> None:
        self._grid.unpick()

    def _select(self, ids: list[str]) -> None:
        self._selected = ids
        if self._actions is not None:
            actions, count = self._actions
            count.set_text(f"{len(ids):,} selected")
            actions.set_visibility(bool(ids))

    async def _assign(self, pairs: Pairs) -> None:
        wanted = dict(pairs)
        llm = wanted.get("llm", "")
        await self._each(lambda client, id_: client.assign(id_, llm, now="now" in wanted), f"assigned to {llm}")

    async def _retry(self) -> None:
        await self._each(lambda client, id_: client.retry(id_), "started again")

    async def _cancel(self) -> None:
        await self._each(lambda client, id_: client.cancel(id_), "cancelled")

    async def _each(self, do: "Callable[[Client, str], Coroutine[Any, Any, TaskView]]", done: str) -> None:
        """Apply an action to each selected task, and show the outcome."""
        ids, site, session = list(self._selected), self._context.site, self._context.visitor.session

        async def all_of_them(client: Client) -> list[TaskView | BaseException]:
            return list(await asyncio.gather(*(do(client, id_) for id_ in ids), return_exceptions=True))

        outcomes = await self._context.act(all_of_them)
        if outcomes is None:
            return
        for id_, outcome in zip(ids, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                self._context.say(f"{id_}: {outcome}", "error", self._context.task_url(id_))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                site.notices.own(id_, session)
        if good := sum(isinstance(outcome, TaskView) for outcome in outcomes):
            self._context.say(f"{good:,} task{'' if good == 1 else 's'} {done}")
        self._grid.unpick()


def took(view: TaskView) -> str:
    """Return the duration of the last attempt if it has ended."""
    last = view.attempts[-1] if view.attempts else None
    return duration(last.duration) if last and last.duration is not None else ""
