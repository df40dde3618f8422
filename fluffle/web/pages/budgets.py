"""Budgets with bars and forecasts, and rate limits with their states; buttons to stop spending, raise and resume."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from nicegui import ui

from broker.protocol.spending import BudgetList, BudgetView, LimitView
from fluffle.client.client import Client
from fluffle.client.kwargs import BudgetChanges
from fluffle.presentation.amounts import amount
from fluffle.presentation.spending_text import (
    Figure,
    figures,
    forecast,
    forecast_of,
    forecasts,
    limit_figures,
    limit_left,
    rules,
    running,
    spent_of,
    title,
)
from fluffle.web.components import HtmlElement, Pairs, ago, button, empty, form, options, status
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

_BUDGET_STATES = {"ok": "ok", "warning": "nearly used up", "empty": "used up"}
_WHEN_EMPTY = {"wait": "tasks wait when empty", "ask": "tasks ask a person when empty", "fail": "tasks fail when empty"}
_NO_BUDGETS = "Nothing limits the spending. Set a budget with `fluffle budget set team --usd 20 --per day`."
_NO_LIMITS = "An LLM that connects brings its rate limit: LLMs with the same API key share one."


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/budgets")
    async def budgets() -> None:
        context = PageContext(site)
        with frame(context, "budgets", "Budgets") as actions:
            await _Budgets(context, actions).follow()


class _Budgets:
    def __init__(self, context: PageContext, actions: HtmlElement) -> None:
        self._context = context
        self._actions = actions
        self._stopped: tuple[str | None] | None = None  # as shown
        self._notice = HtmlElement("div")
        self._budgets = _Cards(HtmlElement("div", None, "budgets"), self._build_budget, self._build_raise)
        self._no_budgets = HtmlElement("div")
        HtmlElement("h2", "Rate limits", "section")
        self._limits = _Cards(HtmlElement("div", None, "llms"), self._build_limit, self._build_limit_actions)
        self._no_limits = HtmlElement("div")

    async def follow(self) -> None:
        """Show budgets and limits, and update them while the page is open."""
        await self._context.follow(self._refresh, {"task", "llm", "limit", "budget", "state"}, every=1.0)

    async def _refresh(self) -> None:
        self._show_budgets(await self._context.reader.budgets())
        self._show_limits(await self._context.reader.limits())

    def _show_budgets(self, found: BudgetList) -> None:
        if self._stopped != (found.stopped,):
            self._stopped = (found.stopped,)
            self._notice.clear()
            self._actions.clear()
            if found.stopped is not None:
                with self._notice, HtmlElement("section", None, "card failure stopped", role="status"):
                    HtmlElement("h2", "All spending is stopped")
                    HtmlElement("p", found.stopped or "No reason was given.")
            if self._context.visitor.may_change:
                with self._actions:
                    self._build_switch(is_stopped=found.stopped is not None)
        now = datetime.now(UTC)
        self._budgets.show(
            {f"{view.name} {view.value or ''}": (view, forecasts(view, now), view.name) for view in found.budgets}
        )
        _show_nothing(self._no_budgets, not found.budgets, "No budgets yet", _NO_BUDGETS)

    def _show_limits(self, limits: list[LimitView]) -> None:
        self._limits.show({view.name: (view, None, view.state) for view in limits})
        _show_nothing(self._no_limits, not limits, "No rate limits yet", _NO_LIMITS)

    # -- all spending ----------------------------------------------------------------------------------------------

    def _build_switch(self, *, is_stopped: bool) -> None:
        if is_stopped:
            button("Allow spending", self._allow, "primary")
            return
        with form(self._stop, "inline", aria_label="Stop all spending"):
            HtmlElement("input", name="reason", placeholder="Reason", aria_label="Reason", maxlength=500)
            HtmlElement("button", "Stop all spending", "button danger")

    async def _stop(self, pairs: Pairs) -> None:
        reason = dict(pairs).get("reason", "").strip()
        await self._do(lambda client: client.stop_spending(reason), "All spending is stopped")

    async def _allow(self) -> None:
        await self._do(lambda client: client.allow_spending(), "Spending is allowed")

    async def _do(self, do: Callable[[Client], Awaitable[object]], done: str) -> None:
        if await self._context.act(do, done) is not None:
            await self._refresh()

    # -- a budget --------------------------------------------------------------------------------------------------

    def _build_budget(self, view: BudgetView, _: object) -> None:
        with HtmlElement("div", None, "llm-head"):
            HtmlElement("h2", title(view))
            status(view.state, _BUDGET_STATES[view.state])
        with HtmlElement("p", None, "muted"):
            HtmlElement("span", ", ".join(part for part in (rules(view), _WHEN_EMPTY[view.on_empty]) if part))
            if view.until is not None:
                HtmlElement("span", ", next period ")
                ago(view.until)
        for figure in figures(view):
            self._build_figure(view, figure)
        if view.unknown_runs:
            HtmlElement("p", f"{amount(view.unknown_runs, 'runs')} of unknown cost", "muted")

    def _build_figure(self, view: BudgetView, figure: Figure) -> None:
        texts = {
            "spent": spent_of(view, figure),
            "reserved": amount(figure.reserved, figure.unit),
            "left": amount(figure.left, figure.unit),
        }
        most = amount(figure.most, figure.unit)
        label = f"Of {most}: " + ", ".join(f"{text} {name}" for name, text in texts.items())
        with HtmlElement("div", None, "timebar", role="img", aria_label=label):
            whole = max(figure.most, figure.spent + figure.reserved)
            for name in texts:
                HtmlElement("span", None, data_kind=name, style=f"flex-grow:{_share(getattr(figure, name), whole):.4f}")
        with HtmlElement("ul", None, "legend"):
            for name, text in texts.items():
                with HtmlElement("li", None, data_kind=name):
                    HtmlElement("span", name)
                    HtmlElement("strong", text)
            with HtmlElement("li", None, "whole"):
                HtmlElement("span", "budget")
                HtmlElement("strong", most)
        now = datetime.now(UTC)
        if text := forecast_of(view, figure, now):
            with HtmlElement("p", None, "forecast"):
                HtmlElement("span", f"Forecast for the period: {text}")
                if (forecast(view, figure, now) or 0.0) > figure.most:
                    HtmlElement("span", "more than the budget", "badge")

    def _build_raise(self, view: BudgetView) -> None:
        if self._context.visitor.may_change:
            build_raise(self._context, view.name, [figure.unit for figure in figures(view)], value=view.value)

    # -- a rate limit ----------------------------------------------------------------------------------------------

    def _build_limit(self, view: LimitView, _: object) -> None:
        with HtmlElement("div", None, "llm-head"):
            HtmlElement("h2", view.name)
            status(view.state)
            if view.tier == "window":
                HtmlElement("span", "for hours", "badge")
        if view.state != "open":
            with HtmlElement("p", None, "why"):
                HtmlElement("span", view.why or "No reason was given")
                if view.until is not None:
                    HtmlElement("span", ", opens ")
                    ago(view.until)
                elif view.state == "closed":
                    HtmlElement("span", ", opens at an unknown time")
        facts = (f"running {running(view)}", limit_figures(view), limit_left(view) and f"left now: {limit_left(view)}")
        HtmlElement("p", " · ".join(part for part in facts if part), "muted")
        with HtmlElement("p", None, "members"):
            for name in view.llms:
                HtmlElement("a", name, "tag", href=self._context.url(f"/llms#{name}"))
            if not view.llms:
                HtmlElement("span", "No LLM uses it", "muted")

    def _build_limit_actions(self, view: LimitView) -> None:
        if not self._context.visitor.may_change:
            return
        name = view.name
        with HtmlElement("div", None, "llm-actions"):
            if view.state != "open":
                button("Resume", lambda: self._pause(name, paused=False), "primary")
            if view.state != "paused":
                button("Pause", lambda: self._pause(name, paused=True))

    async def _pause(self, name: str, *, paused: bool) -> None:
        done = f"{name} is paused" if paused else f"{name} is open"
        await self._do(lambda client: client.manage_limit(name, paused=paused), done)


def build_raise(context: PageContext, name: str, units: Sequence[str], *, value: str | None = None) -> None:
    """Add a form that raises a budget by an amount of one of these units: `USD`, `tokens`, `runs`."""

    async def on_submit(pairs: Pairs) -> None:
        changes = raised(dict(pairs), value)
        await context.act(lambda client: client.manage_budget(name, **changes), "The budget is raised")

    with form(on_submit, "inline raise", aria_label=f"Raise the budget {name}"):
        HtmlElement(
            "input",
            name="more",
            type="number",
            min="0",
            step="any",
            required=True,
            aria_label="Raise by",
            placeholder="Raise by",
        )
        with HtmlElement("select", name="unit", aria_label="Unit"):
            options((unit, unit) for unit in units)
        HtmlElement("button", "Raise", "button")


def raised(given: Mapping[str, str], value: str | None) -> BudgetChanges:
    """Return the changes of a budget that a form asks for. An impossible amount becomes 0, which is refused."""
    try:
        more = float(given.get("more", ""))
    except ValueError:
        more = 0.0
    if not isfinite(more):
        more = 0.0
    changes: BudgetChanges = {}
    match given.get("unit"):
        case "tokens":
            changes["raise_tokens"] = int(more)
        case "runs":
            changes["raise_runs"] = int(more)
        case _:
            changes["raise_usd"] = more
    if value is not None:
        changes["value"] = value
    return changes


class _Cards:
    """Cards by key. The content of a card is built again when it changes, its form only when its kind changes.

    So a form keeps the focus and what a person types into it.
    """

    def __init__(
        self, place: HtmlElement, build: Callable[[Any, Any], None], build_form: Callable[[Any], None]
    ) -> None:
        self._place = place
        self._build = build
        self._build_form = build_form
        self._cards: dict[str, tuple[HtmlElement, HtmlElement, HtmlElement]] = {}
        self._shown: dict[str, tuple[Any, Any, Any]] = {}

    def show(self, entries: dict[str, tuple[Any, Any, Any]]) -> None:
        """Show one card for each key; an entry is a view, more that the content depends on, and the kind of form."""
        for key in self._cards.keys() - entries.keys():
            self._cards.pop(key)[0].delete()
            del self._shown[key]
        for key, entry in entries.items():
            if key not in self._cards:
                with self._place, HtmlElement("section", None, "card llm", id=_anchor(key)) as card:
                    self._cards[key] = (card, HtmlElement("div", None, "card-body"), HtmlElement("div"))
            _, body, actions = self._cards[key]
            view, more, kind = entry
            before = self._shown.get(key)
            if before is None or before[:2] != (view, more):
                body.clear()
                with body:
                    self._build(view, more)
            if before is None or before[2] != kind:
                actions.clear()
                with actions:
                    self._build_form(view)
            self._shown[key] = entry


def _anchor(key: str) -> str:
    return key.strip().replace(" ", "-")


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _show_nothing(place: HtmlElement, is_empty: bool, head: str, advice: str) -> None:
    place.clear()
    if is_empty:
        with place:
            empty(head, advice)
