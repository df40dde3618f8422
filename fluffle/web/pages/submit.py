"""The form for a new task."""

import json
from datetime import datetime
from typing import Any

from nicegui import ui

from broker.errors import FluffleError
from fluffle.client.kwargs import TaskFields
from fluffle.web.components import HtmlElement, Pairs, field, form, on_entry, options
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

_PREVIEW_INTERVAL_SECONDS = 0.5


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/new")
    async def new() -> None:
        context = PageContext(site)
        with frame(context, "tasks", "New task"):
            if not context.visitor.may_change:
                HtmlElement("p", "You are a viewer and may not submit tasks.", "muted")
                return
            _build(context)


def _build(context: PageContext) -> None:
    async def submit(pairs: Pairs) -> None:
        description, fields = asked(pairs)
        if not description:
            context.say("Enter a description", "error")
            return
        task = await context.act(lambda client: client.submit(description, **fields))
        if task is not None:
            context.site.notices.own(task.id, context.visitor.session)
            context.go(f"/tasks/{task.id}")

    async def preview_assignment(pairs: Pairs) -> None:
        description, fields = asked(pairs)
        try:
            place = await context.reader.placement(description, **fields) if description else None
        except FluffleError as error:
            preview.set_text(str(error))
        else:
            preview.set_text(f"{place.llm or 'No LLM yet'}: {place.why}" if place else "")

    skills = sorted({skill for llm in context.site.live.llms for skill in llm.skills})
    with form(submit, "card entry") as made:
        field("Description", "textarea", name="description", rows="3", required=True, autofocus=True)
        field("Input: text or JSON", "textarea", name="inputs", rows="6", classes="raw")
        with HtmlElement("div", None, "columns"):
            field("Skills", name="skills", list="skills", placeholder="summarise, review")
            with field("LLM", "select", name="assignee"):
                options([("", "Chosen by the coordinator"), *((llm.name, llm.name) for llm in context.site.live.llms)])
            with field("Priority", "select", name="priority"):
                options(((str(n), _PRIORITIES.get(n, str(n))) for n in range(9, -1, -1)), "4")
            field("Due", name="due", type="datetime-local")
            field("Labels", name="labels", placeholder="nightly, report")
            field("Maximum attempts", name="max_attempts", type="number", min="1", max="100", placeholder="3")
        with HtmlElement("datalist", id="skills"):
            for skill in skills:
                HtmlElement("option", value=skill)
        with HtmlElement("div", None, "entry-end"):
            HtmlElement("button", "Submit", "button primary")
            preview = HtmlElement("p", "", "muted", role="status", data_preview="")
    on_entry(made, preview_assignment, pause=_PREVIEW_INTERVAL_SECONDS)


_PRIORITIES = {9: "9, first", 4: "4, normal", 0: "0, last"}


def asked(pairs: Pairs) -> tuple[str, TaskFields]:
    """Return the description and the other fields of a task from a form. Empty and invalid fields are left out."""
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
    """Return a JSON object or list; anything else as a text."""
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
