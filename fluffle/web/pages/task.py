"""One task: its description, answer, attempts and timeline, and buttons to change it."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from broker.errors import QueryRejected
from broker.protocol.status import Status
from broker.protocol.views import AttemptView, TaskView
from fluffle.client.client import Client
from fluffle.client.handle import reason
from fluffle.presentation.durations import duration
from fluffle.presentation.spending_text import task_budget
from fluffle.presentation.task_text import attempts_text, left_out, usage_text, waiting_for
from fluffle.presentation.timeline import timeline
from fluffle.web.components import HtmlElement, Pairs, ago, button, empty, form, options, rendered, status
from fluffle.web.layout import frame
from fluffle.web.live import RateLimitedRefresh, Update
from fluffle.web.markdown import content, markdown, preformatted, prepared, render_uncached
from fluffle.web.page_context import PageContext, SharedServices
from fluffle.web.pages.budgets import build_raise
from fluffle.web.pages.question import build_question
from fluffle.web.pages.task_phases import Phase, phases

MAX_PARTS_SHOWN = 100
MAX_STREAMS = 8  # LLMs whose text is kept until the page knows which of them has the task

_PHASES = {"waited": "waited", "ran": "ran", "asked": "waited for a person"}
_STREAM_INTERVAL_SECONDS = 0.1


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/tasks/{task_id:path}")
    async def task(task_id: str) -> None:
        context = PageContext(site)
        with frame(context, "tasks", "Task") as actions:
            await _Task(context, task_id, actions).follow()


class _Task:
    def __init__(self, context: PageContext, task_id: str, actions: HtmlElement) -> None:
        self._context = context
        self._id = task_id
        self._actions = actions
        self._view: TaskView | None = None
        self._parts: list[TaskView] = []
        self._streamed: dict[str, str] = {}  # text by LLM; the page shows the text of the LLM that has the task
        self._stream: Any = None
        self._quiet: HtmlElement | None = None  # shows since when no text has arrived
        self._quiet_since: datetime | None = None
        self._streaming = RateLimitedRefresh(self._show_stream, _STREAM_INTERVAL_SECONDS)
        self._body = HtmlElement("div", None, "task")

    async def follow(self) -> None:
        """Show the task, and update it while the page is open."""
        await self._context.follow(self._refresh, {"task", "limit", "budget"}, matches=self._is_about_it)
        self._context.listen({"progress"}, self._on_progress)
        self._context.listen({"state"}, lambda _: self._show_quiet())
        self._context.run_while_open(self._streaming.run())

    def _is_about_it(self, update: Update) -> bool:
        """Return whether an event is about this task or one of its parts, or may change what the task waits for."""
        if update.about != "task":
            return self._view is not None and self._view.status in (Status.PENDING, Status.BLOCKED)
        return update.subject == self._id or (
            isinstance(update.data, dict) and update.data.get("parent_id") == self._id
        )

    async def _refresh(self) -> None:
        try:
            view = await self._context.reader.task(self._id)
            parts = [part async for part in self._context.reader.tasks(within=self._id, limit=MAX_PARTS_SHOWN)]
        except QueryRejected:
            self._body.clear()
            with self._body:
                back = ("All tasks", self._context.url("/"))
                empty("No such task", f"The task {self._id} has not been submitted.", link=back)
            return
        streamed = self._streamed.get(view.llm or "", "")
        await prepared(view.description, view.result, streamed, *(question.text for question in view.questions))
        if (view, parts) == (self._view, self._parts):
            return
        if self._view is not None and view.attempt != self._view.attempt:
            self._streamed = {}
        self._view, self._parts = view, parts
        self._actions.clear()
        self._body.clear()
        with self._actions:
            if self._context.visitor.may_change:
                self._build_actions(view)
        with self._body:
            self._build(view)

    # -- streaming ------------------------------------------------------------------------------------------------

    def _on_progress(self, update: Update) -> None:
        if update.subject != self._id or self._view is None or self._view.status.is_final:
            return
        if update.what not in self._streamed and len(self._streamed) >= MAX_STREAMS:
            return
        self._streamed[update.what] = self._streamed.get(update.what, "") + str(update.data.get("text") or "")
        self._streaming.nudge()

    async def _show_stream(self) -> None:
        if self._stream is not None and not self._stream.is_deleted:
            stream, html = self._stream, await render_uncached(self._text_so_far())
            if not stream.is_deleted:
                stream.set_content(html)

    def _text_so_far(self) -> str:
        """Return the text that the LLM of the task has written so far."""
        return self._streamed.get((self._view and self._view.llm) or "", "")

    def _show_quiet(self) -> None:
        """Show since when no text has arrived, if that is long."""
        if self._quiet is None or self._quiet.is_deleted or self._view is None:
            return
        llm = self._context.site.live.llm(self._view.llm or "")
        since = None if llm is None else llm.quiet.get(self._id)
        if since != self._quiet_since:
            self._quiet_since = since
            self._quiet.clear()
            if since is not None:
                with self._quiet:
                    HtmlElement("span", "No text since ")
                    ago(since)

    # -- actions ---------------------------------------------------------------------------------------------------

    def _build_actions(self, view: TaskView) -> None:
        if view.status.is_final:
            button("Retry", lambda: self._do(lambda client: client.retry(self._id), "Started again"), "primary")
            return
        names = [llm.name for llm in self._context.site.live.llms]
        with form(self._assign, "inline", aria_label="Assign to an LLM"):
            with HtmlElement("select", name="llm", aria_label="LLM"):
                options([("", "Chosen by the coordinator"), *((name, name) for name in names)], view.assignee or "")
            HtmlElement("button", "Reassign", "button")
        button("Cancel", lambda: self._do(lambda client: client.cancel(self._id), "Cancelled"), "danger")

    async def _assign(self, pairs: Pairs) -> None:
        llm = dict(pairs).get("llm", "")
        if llm:
            await self._do(lambda client: client.assign(self._id, llm, now=True), f"Assigned to {llm}")
        else:
            await self._do(lambda client: client.unassign(self._id), "The coordinator chooses the LLM")

    async def _do(self, do: Callable[[Client], Coroutine[Any, Any, TaskView]], done: str) -> None:
        if await self._context.act(do, done) is not None:
            self._context.site.notices.own(self._id, self._context.visitor.session)

    # -- content --------------------------------------------------------------------------------------------------

    def _build(self, view: TaskView) -> None:
        with HtmlElement("div", None, "task-main"):
            with HtmlElement("section", None, "card"):
                with HtmlElement("div", None, "task-status"):
                    status(view.status.value)
                    if view.overdue:
                        HtmlElement("span", "overdue", "badge")
                    if waits := waiting_for(view):
                        HtmlElement("span", waits, "muted")
                rendered(markdown(view.description), "prose description")
                if view.inputs is not None:
                    with HtmlElement("details", None, "inputs"):
                        HtmlElement("summary", "Inputs")
                        rendered(preformatted(view.inputs))
            for question in view.questions:
                build_question(self._context, view, question)
            self._build_answer(view)
            self._build_parts()
            self._build_attempts(view)
        with HtmlElement("aside", None, "task-side"):
            self._build_time(view)
            self._build_facts(view)
            self._build_budget(view)
            self._build_history(view)

    def _build_answer(self, view: TaskView) -> None:
        self._stream = None
        if view.error is not None and view.status in (Status.FAILED, Status.CANCELLED):
            with HtmlElement("section", None, "card failure"):
                HtmlElement("h2", "Why it failed" if view.status is Status.FAILED else "Why it was cancelled")
                HtmlElement("p", reason(view))
        if view.status is Status.COMPLETED:
            with HtmlElement("section", None, "card"):
                HtmlElement("h2", "Answer")
                if "result" in view.left_out:
                    HtmlElement(
                        "p", f"The result has {view.left_out['result']:,} bytes, too many to show here.", "muted"
                    )
                else:
                    rendered(content(view.result), "prose answer")
        elif view.status is Status.IN_PROGRESS:
            with HtmlElement("section", None, "card"):
                HtmlElement("h2", f"{view.llm} is working")
                self._quiet = HtmlElement("p", None, "muted quiet-since")
                self._quiet_since = None
                self._show_quiet()
                self._stream = rendered(markdown(self._text_so_far()), "prose answer streaming")

    def _build_parts(self) -> None:
        if not self._parts:
            return
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Parts")
            with HtmlElement("ul", None, "parts"):
                for part in reversed(self._parts):
                    with HtmlElement("li"):
                        status(part.status.value)
                        HtmlElement("a", part.description, href=self._context.task_url(part.id))
                        HtmlElement("span", part.llm or part.assignee or ", ".join(part.assignees), "muted")

    def _build_attempts(self, view: TaskView) -> None:
        if not view.attempts:
            return
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Attempts")
            with HtmlElement("ol", None, "attempts"):
                for attempt in reversed(view.attempts):
                    self._build_attempt(attempt)

    def _build_attempt(self, attempt: AttemptView) -> None:
        with HtmlElement("li"):
            with HtmlElement("div", None, "attempt-head"):
                HtmlElement("strong", f"{attempt.attempt}")
                HtmlElement("a", attempt.llm, href=self._context.url(f"/llms#{attempt.llm}"))
                HtmlElement("span", attempt.model, "muted")
                if attempt.outcome:
                    status(attempt.outcome)
                if attempt.duration is not None:
                    HtmlElement("span", duration(attempt.duration), "muted")
                HtmlElement("span", usage_text(attempt.usage), "muted")
            if attempt.why:
                HtmlElement("p", f"Why this LLM: {attempt.why}", "muted")
            if attempt.error:
                HtmlElement("p", f"{attempt.error.type}: {attempt.error.message}", "error")
            if attempt.result is not None:
                with HtmlElement("details", None, "inputs"):
                    HtmlElement("summary", "Result before the task was retried")
                    rendered(content(attempt.result), "prose")

    def _build_time(self, view: TaskView) -> None:
        parts = phases(view, datetime.now(UTC))
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Where the time went")
            with HtmlElement(
                "div", None, "timebar", role="img", aria_label=", ".join(_phase_text(part) for part in parts)
            ):
                whole = sum(part.seconds for part in parts)
                for part in parts:
                    HtmlElement("span", None, data_kind=part.kind, style=f"flex-grow:{100 * part.seconds / whole:.3f}")
            with HtmlElement("ul", None, "legend"):
                for kind, words in _PHASES.items():
                    total = sum(part.seconds for part in parts if part.kind == kind)
                    if total:
                        with HtmlElement("li", None, data_kind=kind):
                            HtmlElement("span", words)
                            HtmlElement("strong", duration(total))

    def _build_facts(self, view: TaskView) -> None:
        with HtmlElement("section", None, "card"), HtmlElement("dl", None, "facts"):
            _fact("ID", view.id, "code")
            _fact("LLM", view.llm)
            _fact("Assignee", view.assignee or ", ".join(view.assignees))
            _fact("Mode", view.mode)
            _fact("Reviewer", view.reviewer)
            _fact("Priority", str(view.priority))
            _fact("Skills", ", ".join(view.skills))
            _fact("Labels", ", ".join(view.labels))
            _moment("Due", view.due)
            _moment("Not before", view.not_before)
            _fact("Submitted by", view.submitted_by)
            _moment("Submitted", view.submitted_at)
            _moment("Finished", view.finished_at)
            _fact("Attempts", attempts_text(view))
            _fact("Needs", ", ".join(view.needs))
            _fact("Usage", usage_text(view.usage))
            _fact("Budget", task_budget(view.budget) if view.budget else None)
            _fact("Left out (too large)", left_out(view))
            for name, ids in (("Depends on", view.depends_on), ("Part of", [view.parent_id] if view.parent_id else [])):
                if ids:
                    HtmlElement("dt", name)
                    with HtmlElement("dd"):
                        for other in ids:
                            HtmlElement("a", other, "code", href=self._context.task_url(other))

    def _build_budget(self, view: TaskView) -> None:
        """Add a form that raises the budget of the task."""
        if not view.budget or view.status.is_final or not self._context.visitor.may_change:
            return
        units = [unit for name, unit in (("usd", "USD"), ("tokens", "tokens")) if view.budget.get(name) is not None]
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Raise the budget")
            build_raise(self._context, f"task:{view.id}", units)

    def _build_history(self, view: TaskView) -> None:
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Timeline")
            with HtmlElement("ol", None, "timeline"):
                for at, what in reversed(timeline(view)):
                    with HtmlElement("li"):
                        HtmlElement("span", what)
                        ago(at)


def _phase_text(part: Phase) -> str:
    return f"{_PHASES[part.kind]} {duration(part.seconds)}"


def _fact(name: str, value: str | None, classes: str = "") -> None:
    if value:
        HtmlElement("dt", name)
        HtmlElement("dd", value, classes)


def _moment(name: str, at: datetime | None) -> None:
    if at:
        HtmlElement("dt", name)
        with HtmlElement("dd"):
            ago(at)
