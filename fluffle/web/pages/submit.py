"""A new task."""

import json
from datetime import datetime
from typing import Any

from nicegui import ui

from broker.errors import FluffleError
from fluffle.client.kwargs import TaskFields
from fluffle.web.components import HtmlElement, Pairs, field, form, on_entry, options
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

_PREVIEW_INTERVAL_SECONDS = 0.5  # seconds


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/new")
    async def new() -> None:
        context = PageContext(site)
        with frame(context, "tasks", "New task"):
            if not context.visitor.may_change:
                HtmlElement("p", "You may look, but not submit tasks.", "muted")
                return
            _build(context)


def _build(context: PageContext) -> None:
    async def submit(pairs: Pairs) -> None:
        description, fields = asked(pairs)
        if not description:
            context.say("Say what to do", "error")
            return
        task = await context.act(lambda client: client.submit(description, **fields))
        if task is not None:
            context.site.notices.own(task.id, context.visitor.session)
            context.go(f"/tasks/{task.id}")

    async def look(pairs: Pairs) -> None:
        description, fields = asked(pairs)
        try:
            place = await context.books.placement(description, **fields) if description else None
        except FluffleError as error:
            preview.set_text(str(error))
        else:
            preview.set_text(f"{place.llm or 'Nobody yet'}: {place.why}" if place else "")

    skills = sorted({skill for llm in context.site.live.llms for skill in llm.skills})
    with form(submit, "card entry") as made:
        field("What is to be done", "textarea", name="description", rows="3", required=True, autofocus=True)
        field("Text or JSON that it is about", "textarea", name="inputs", rows="6", classes="raw")
        with HtmlElement("div", None, "columns"):
            field("Skills", name="skills", list="skills", placeholder="summarise, review")
            with field("LLM", "select", name="assignee"):
                options([("", "Chosen by the coordinator"), *((llm.name, llm.name) for llm in context.site.live.llms)])
            with field("Priority", "select", name="priority"):
                options(((str(n), _PRIORITIES.get(n, str(n))) for n in range(9, -1, -1)), "4")
            field("Due", name="due", type="datetime-local")
            field("Labels", name="labels", placeholder="nightly, report")
            field("Attempts at most", name="max_attempts", type="number", min="1", max="100", placeholder="3")
        with HtmlElement("datalist", id="skills"):
            for skill in skills:
                HtmlElement("option", value=skill)
        with HtmlElement("div", None, "entry-end"):
            HtmlElement("button", "Submit", "button primary")
            preview = HtmlElement("p", "", "muted", role="status", data_preview="")
    on_entry(made, look, pause=_PREVIEW_INTERVAL_SECONDS)


_PRIORITIES = {9: "9, first", 4: "4, as usual", 0: "0, last"}


def asked(pairs: Pairs) -> tuple[str, TaskFields]:
    """The description and the other fields of a task, out of a form, without those that are empty or impossible."""
    given = {name: value.strip() for name, value in pairs if value.strip()}
    fields: TaskFields = {}
    if "inputs" in given:
        fields["inputs"] = _value(given["inputs"])
    if skills := _tags(given.get("skills", "")):
        fields["skills"] = skills
    if labels := _tags(given.get("labels", "")):
        fields["labels"] = labels
    if "assignee" in given:
        fields["assignee"] = given["assignee"]
    if given.get("priority", "").isdecimal():
        fields["priority"] = int(given["priority"])
    if given.get("max_attempts", "").isdecimal():
        fields["max_attempts"] = int(given["max_attempts"])
    if due := _moment(given.get("due", "")):
        fields["due"] = due
    return given.get("description", ""), fields


def _value(text: str) -> Any:
    """JSON where it is an object or a list; anything else is a text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict | list) else {"text": text}


def _tags(text: str) -> list[str]:
    return text.replace(",", " ").lower().split()


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None
