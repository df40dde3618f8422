"""Elements of a page: plain HTML, so that the browser handles keyboard, focus and forms."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement
from nicegui.events import GenericEventArguments

Pairs = list[tuple[str, str]]

# Sends the fields of a form as pairs of name and value; a local date and time gets its offset.
_EMIT_FORM = "(event) => { event.preventDefault(); emit(fluffle.pairs(event.currentTarget)) }"

_STROKES = {
    "tasks": "M4 6h2M4 12h2M4 18h2M9 6h11M9 12h11M9 18h11",
    "llms": "M9 9c-3-2-4-7-2-7s4 4 4 7m4 0c3-2 4-7 2-7s-4 4-4 7M6 15a6 6 0 1 1 12 0c0 4-3 6-6 6s-6-2-6-6Z",
    "chat": "M4 5h16v11H10l-4 4v-4H4Z",
    "questions": "M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 18h.01M12 3a9 9 0 1 0 0 18a9 9 0 0 0 0-18Z",
    "reports": "M4 20V10M10 20V4M16 20v-7M21 20H3",
    "budgets": "M12 3a9 9 0 1 0 9 9h-9ZM15 3.5A9 9 0 0 1 20.500 9H15Z",
    "rejected": "M4 5h16l-2 14H6ZM9 10l6 5M15 10l-6 5",
    "bell": "M6 16V11a6 6 0 1 1 12 0v5l2 2H4ZM10 21h4",
    "new": "M12 5v14M5 12h14",
    "theme": "M12 4a8 8 0 1 0 8 8a6 6 0 0 1-8-8Z",
    "leave": "M10 5H5v14h5M14 8l4 4l-4 4M18 12H9",
}


class HtmlElement(TextElement):
    """An HTML element with text. `props` are its attributes; `_` stands for `-`, a trailing `_` for nothing."""

    def __init__(self, tag: str, text: str | None = None, classes: str = "", **props: Any) -> None:
        super().__init__(tag=tag, text=text or "")
        if not text:
            self._text = None
        self.classes(classes)
        for name, value in props.items():
            if value is not None and value is not False:
                self._props[name.rstrip("_").replace("_", "-")] = value


class Grid(Element, component="static/grid.js"):
    """A table of rows that keeps its selection while the rows change.

    `columns` are names, headings and kinds. The kind decides how cells look: `task`, `status`, `llm`, `tags`, `ago`,
    `code`, `number` or `text`. Rows are dicts with an `id` and a value for each column.
    """

    def __init__(
        self,
        columns: Sequence[tuple[str, str, str]],
        *,
        label: str,
        on_pick: Callable[[list[str]], None] | None = None,
    ) -> None:
        super().__init__()
        self._props["columns"] = [{"name": name, "label": head, "kind": kind} for name, head, kind in columns]
        self._props["rows"] = []
        self._props["label"] = label
        self._props["selectable"] = on_pick is not None
        if on_pick is not None:
            self.on("pick", lambda event: on_pick(strings(event.args)))

    def show(self, rows: list[dict[str, Any]]) -> None:
        """Replace the rows."""
        if rows != self._props["rows"]:
            self._props["rows"] = rows
            self.update()

    def unpick(self) -> None:
        """Clear the selection."""
        self.run_method("unpick")


def icon(name: str) -> ui.html:
    """Add a decorative icon."""
    drawing = f'<svg viewBox="0 0 24 24" class="icon" aria-hidden="true"><path d="{_STROKES[name]}"/></svg>'
    return ui.html(drawing, sanitize=False, tag="span")


def rendered(html: str, classes: str = "") -> ui.html:
    """Add HTML that markdown.py has rendered."""
    return ui.html(html, sanitize=False).classes(classes)


def button(text: str, on_click: Callable[[], Any], classes: str = "", **props: Any) -> HtmlElement:
    """Add a button."""
    made = HtmlElement("button", text, f"button {classes}", type="button", **props)
    made.on("click", lambda _: on_click(), args=[])
    return made


def status(value: str, words: str | None = None) -> HtmlElement:
    """Add the state of a task or an LLM: a coloured dot and a word."""
    return HtmlElement("span", words or value.replace("_", " "), "status", data_status=value)


def ago(at: datetime | None) -> HtmlElement:
    """Add the time since or until `at`; the browser keeps it up to date."""
    return HtmlElement("time", None, "ago", datetime=at.isoformat() if at else None)


def options(values: Iterable[tuple[str, str]], chosen: str = "") -> None:
    """Add the options of a select: value and text."""
    for value, text in values:
        HtmlElement("option", text or " ", value=value, selected=value == chosen)


def field(label: str, tag: str = "input", *, classes: str = "", **props: Any) -> HtmlElement:
    """Add a form field with its label. Returns the field."""
    with HtmlElement("label", None, f"field {classes}"):
        HtmlElement("span", label)
        return HtmlElement(tag, None, **props)


def form(on_submit: Callable[[Pairs], Any], classes: str = "", **props: Any) -> HtmlElement:
    """Add a form that calls `on_submit` with its fields."""
    made = HtmlElement("form", None, classes, **props)
    made.on("submit", lambda event: on_submit(pairs(event)), js_handler=_EMIT_FORM)
    return made


def on_entry(made: HtmlElement, handle: Callable[[Pairs], Any], pause: float) -> None:
    """Call `handle` with the fields of a form while the user types, `pause` seconds after a change at the latest."""
    made.on(
        "input",
        lambda event: handle(pairs(event)),
        js_handler=_EMIT_FORM.replace("event.preventDefault(); ", ""),
        throttle=pause,
        leading_events=False,
    )


def empty(title: str, advice: str, *, link: tuple[str, str] | None = None) -> None:
    """Add a text for an empty list: what is missing and what to do next. `link` is its text and address."""
    with HtmlElement("div", None, "empty"):
        HtmlElement("strong", title)
        HtmlElement("p", advice)
        if link:
            HtmlElement("a", link[0], "button primary", href=link[1])


def pairs(event: GenericEventArguments) -> Pairs:
    """Return the fields of a form that a browser sent; ignore anything else."""
    given = event.args if isinstance(event.args, list) else []
    return [
        (pair[0], pair[1])
        for pair in given
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    ]


def strings(given: Any) -> list[str]:
    """Return the strings that a browser sent; ignore anything else."""
    return [item for item in given if isinstance(item, str)] if isinstance(given, list) else []
