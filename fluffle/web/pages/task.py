"""One task: what was asked, what came out, how it went, and what can be done about it."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nicegui import ui

from broker.errors import QueryRejected
from broker.protocol.status import Status
from broker.protocol.views import AttemptView, QuestionView, TaskView
from broker.protocol.worker_reports import Usage
from fluffle.client.client import Client
from fluffle.client.handle import reason
from fluffle.presentation.output import duration
from fluffle.presentation.task_text import left_out, waiting_for
from fluffle.web.components import HtmlElement, Pairs, ago, button, empty, form, options, rendered, status
from fluffle.web.layout import frame
from fluffle.web.live import Paced, Update
from fluffle.web.markdown import content, markdown, preformatted, prepared, rendered_apart
from fluffle.web.page_context import PageContext, SharedServices
from fluffle.web.pages.task_phases import Phase, begin_of, phases

MOST_PARTS = 100  # of a task, that are shown
MOST_WRITERS = 8  # LLMs whose text is kept until it is known which of them has the task

_PHASES = {"waited": "waited", "ran": "ran", "asked": "waited for a person"}
_STREAM_EVERY = 0.1  # seconds


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/tasks/{task_id:path}")
    async def task(task_id: str) -> None:
        context = PageContext(site)
        with frame(context, "tasks", "Task") as actions:
            await _Task(context, task_id, actions).build()


class _Task:
    def __init__(self, context: PageContext, task_id: str, actions: HtmlElement) -> None:
        self._context = context
        self._id = task_id
        self._actions = actions
        self._view: TaskView | None = None
        self._parts: list[TaskView] = []
        self._streamed: dict[str, str] = {}  # text by LLM; shown is that of the LLM that has the task
        self._stream: Any = None
        self._quiet: HtmlElement | None = None  # where it is said that no text comes
        self._quiet_since: datetime | None = None
        self._streaming = Paced(self._show_stream, _STREAM_EVERY)

    async def build(self) -> None:
        """Show the task, and follow what becomes of it."""
        self._body = HtmlElement("div", None, "task")
        await self._context.follow(self._refresh, {"task"}, fits=self._is_about_it)
        self._context.hear({"progress"}, self._hear_progress)
        self._context.hear({"state"}, lambda _: self._show_quiet())
        self._context.keep(self._streaming.run())

    def _is_about_it(self, told: Update) -> bool:
        """Whether an event is about this task or one of its parts."""
        return told.subject == self._id or (isinstance(told.data, dict) and told.data.get("parent_id") == self._id)

    async def _refresh(self) -> None:
        try:
            view = await self._context.books.task(self._id)
            parts = [part async for part in self._context.books.tasks(within=self._id, limit=MOST_PARTS)]
        except QueryRejected:
            self._body.clear()
            with self._body:
                back = ("All tasks", self._context.url("/"))
                empty("There is no such task", f"Nobody has submitted {self._id}, or not yet.", link=back)
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

    # -- as it comes -----------------------------------------------------------------------------------------------

    def _hear_progress(self, told: Update) -> None:
        if told.subject != self._id or self._view is None or self._view.status.is_final:
            return
        if told.what not in self._streamed and len(self._streamed) >= MOST_WRITERS:
            return
        self._streamed[told.what] = self._streamed.get(told.what, "") + str(told.data.get("text") or "")
        self._streaming.nudge()

    async def _show_stream(self) -> None:
        if self._stream is not None and not self._stream.is_deleted:
            stream, html = self._stream, await rendered_apart(self._text_so_far())
            if not stream.is_deleted:
                stream.set_content(html)

    def _text_so_far(self) -> str:
        """What the LLM that has the task has written."""
        return self._streamed.get((self._view and self._view.llm) or "", "")

    def _show_quiet(self) -> None:
        """Say since when no text has come, where that is long."""
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

    # -- what to do ------------------------------------------------------------------------------------------------

    def _build_actions(self, view: TaskView) -> None:
        if view.status.is_final:
            button("Retry", lambda: self._do(lambda client: client.retry(self._id), "Started again"), "primary")
            return
        names = [llm.name for llm in self._context.site.live.llms]
        with form(self._assign, "inline", aria_label="Give it to an LLM"):
            with HtmlElement("select", name="llm", aria_label="LLM"):
                options([("", "Chosen by the coordinator"), *((name, name) for name in names)], view.assignee or "")
            HtmlElement("button", "Reassign", "button")
        button("Cancel", lambda: self._do(lambda client: client.cancel(self._id), "Cancelled"), "danger")

    async def _assign(self, pairs: Pairs) -> None:
        llm = dict(pairs).get("llm", "")
        if llm:
            await self._do(lambda client: client.assign(self._id, llm, now=True), f"Given to {llm}")
        else:
            await self._do(lambda client: client.unassign(self._id), "Left to the coordinator")

    async def _do(self, do: Callable[[Client], Coroutine[Any, Any, TaskView]], done: str) -> None:
        if await self._context.act(do, done) is not None:
            self._context.site.notices.own(self._id, self._context.visitor.session)

    # -- what there is ---------------------------------------------------------------------------------------------

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
                    HtmlElement("p", f"It has {view.left_out['result']:,} bytes, too many to be shown.", "muted")
                else:
                    rendered(content(view.result), "prose answer")
        elif view.status is Status.IN_PROGRESS:
            with HtmlElement("section", None, "card"):
                HtmlElement("h2", f"{view.llm} is at work")
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
                HtmlElement("span", usage(attempt.usage), "muted")
            if attempt.why:
                HtmlElement("p", f"Why this LLM: {attempt.why}", "muted")
            if attempt.error:
                HtmlElement("p", f"{attempt.error.type}: {attempt.error.message}", "error")
            if attempt.result is not None:
                with HtmlElement("details", None, "inputs"):
                    HtmlElement("summary", "Its result, before the task was retried")
                    rendered(content(attempt.result), "prose")

    def _build_time(self, view: TaskView) -> None:
        parts = phases(view, datetime.now(UTC))
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Where the time went")
            with HtmlElement("div", None, "timebar", role="img", aria_label=", ".join(_told(part) for part in parts)):
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
            _fact("Id", view.id, "code")
            _fact("LLM", view.llm)
            _fact("Given to", view.assignee or ", ".join(view.assignees))
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
            _fact("Attempts", f"{len(view.attempts)} of at most {view.max_attempts}")
            _fact("Usage", usage(view.usage))
            _fact("Left out, as too large", left_out(view))
            for name, ids in (("Builds on", view.depends_on), ("Part of", [view.parent_id] if view.parent_id else [])):
                if ids:
                    HtmlElement("dt", name)
                    with HtmlElement("dd"):
                        for other in ids:
                            HtmlElement("a", other, "code", href=self._context.task_url(other))

    def _build_history(self, view: TaskView) -> None:
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Timeline")
            with HtmlElement("ol", None, "timeline"):
                for at, what in timeline(view):
                    with HtmlElement("li"):
                        HtmlElement("span", what)
                        ago(at)


def build_question(context: PageContext, view: TaskView, question: QuestionView) -> None:
    """A question of a task, and where to answer it as long as it is open."""
    is_open = question.answer is None and not view.status.is_final

    async def answer(given: str) -> None:
        if given.strip():
            await context.act(lambda client: client.answer(view.id, given, question=question.id), "Answered")

    with HtmlElement("section", None, "card question", data_open=str(is_open).lower()):
        HtmlElement("h2", f"{view.llm or 'It'} asks" if is_open else "Asked")
        rendered(markdown(question.text), "prose")
        if question.answer is not None:
            HtmlElement("p", question.answer, "given-answer")
            if question.answered_by:
                HtmlElement("small", f"answered by {question.answered_by}")
        elif is_open and context.visitor.may_change:
            if question.choices:
                with HtmlElement("div", None, "choices"):
                    for choice in question.choices:
                        button(choice, partial(answer, choice), "primary")
            else:
                with form(lambda pairs: answer(dict(pairs).get("answer", "")), "reply"):
                    HtmlElement("textarea", name="answer", rows="2", aria_label="Your answer", required=True)
                    HtmlElement("button", "Answer", "button primary")


def timeline(view: TaskView) -> list[tuple[datetime, str]]:
    """What happened when, latest first."""
    lines = [(change.at, change.told) for change in view.history]
    if view.ready_at:
        lines.append((view.ready_at, "ready"))
    for attempt in view.attempts:
        name = f"attempt {attempt.attempt}"
        if attempt.assigned_at:
            lines.append((attempt.assigned_at, f"{name} assigned to {attempt.llm}"))
        if began := begin_of(attempt):
            lines.append((began, f"{name} started"))
        if attempt.finished_at:
            lines.append((attempt.finished_at, f"{name} {attempt.outcome}"))
    for question in view.questions:
        lines.append((question.asked_at, "asked a person"))
        if question.answered_at:
            lines.append((question.answered_at, "answered"))
    if view.finished_at and view.status.is_final:
        lines.append((view.finished_at, view.status.value))
    return sorted(lines, key=lambda line: line[0])[::-1]


def usage(used: Usage | None) -> str:
    """What was used, in words; empty where it is not known."""
    if used is None:
        return ""
    parts = [
        f"{used.input_tokens:,} tokens in" if used.input_tokens is not None else "",
        f"{used.output_tokens:,} tokens out" if used.output_tokens is not None else "",
        f"{used.cost_usd:.4f} USD" if used.cost_usd is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _told(part: Phase) -> str:
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
