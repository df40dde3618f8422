"""The frame around every page: where one is, where one can go, what is wrong, what is new."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from nicegui import ui

from fluffle.web.components import HtmlElement, ago, icon
from fluffle.web.live import Update
from fluffle.web.notifications import Notification
from fluffle.web.page_context import PageContext

STATIC = Path(__file__).parent / "static"
PAGES = (
    ("tasks", "Tasks", "/"),
    ("llms", "LLMs", "/llms"),
    ("chat", "Chat", "/chat"),
    ("questions", "Questions", "/questions"),
    ("reports", "Reports", "/reports"),
    ("rejected", "Rejected", "/rejected"),
)
_AWAY = {
    "coordinator": "No coordinator answers. What is shown may be old; new tasks wait in RabbitMQ. "
    "Start one with `fluffle coordinator`: this page goes on by itself.",
    "RabbitMQ": "RabbitMQ is away. What is shown may be old. This page goes on by itself when it is back.",
}
RABBIT = (
    '<svg viewBox="0 0 32 32" class="rabbit" aria-hidden="true"><path d="M11 15C7 10 7 3 10 2c3 0 4 6 4 11M21 15c4-5 '
    '4-12 1-13c-3 0-4 6-4 11M7 22a9 8 0 1 1 18 0c0 5-4 8-9 8s-9-3-9-8Z"/><circle cx="12.5" cy="21" r="1.4"/>'
    '<circle cx="19.5" cy="21" r="1.4"/></svg>'
)


def head(prefix: str) -> str:
    """What every page loads, for its `<head>`. The names change with the content, so that browsers may keep it."""
    return "".join(
        tag.format(url=f"{prefix}/static/{name}?{sha256((STATIC / name).read_bytes()).hexdigest()[:12]}")
        for name, tag in (
            ("fluffle.js", '<script src="{url}"></script>'),
            ("fluffle.css", '<link rel="stylesheet" href="{url}">'),
        )
    )


@contextmanager
def frame(context: PageContext, current: str, title: str) -> Iterator[HtmlElement]:
    """The frame, with the content of the page inside. Yields the place for what can be done, beside the title."""
    ui.page_title(f"{title} · Fluffle")
    layout = context.client.content.parent_slot
    assert layout is not None
    layout.parent.props["role"] = "none"  # it would be a `main` around the navigation
    HtmlElement("a", "Skip to content", "skip", href="#content")
    with HtmlElement("div", None, "shell"):
        _navigation(context, current)
        with HtmlElement("main", None, "main", id="content", tabindex="-1"):
            _banner(context)
            with HtmlElement("header", None, "head"):
                HtmlElement("h1", title)
                actions = HtmlElement("div", None, "actions")
            yield actions
    context.toasts = HtmlElement("div", None, "toasts", role="status", aria_live="polite")


def _navigation(context: PageContext, current: str) -> None:
    with HtmlElement("nav", None, "nav", aria_label="Pages"):
        with HtmlElement("a", None, "brand", href=context.url("/")):
            ui.html(RABBIT, sanitize=False, tag="span")
            HtmlElement("span", "Fluffle")
        for name, label, path in PAGES:
            marked = "page" if name == current else None
            with HtmlElement("a", None, "nav-item", href=context.url(path), aria_current=marked, data_page=name):
                icon(name)
                HtmlElement("span", label)
        HtmlElement("div", None, "nav-space")
        _bell(context)
        switch = HtmlElement(
            "button", None, "nav-item", type="button", aria_label="Light or dark", title="Light or dark"
        )
        switch.on("click", js_handler="() => fluffle.switchTheme()")
        with switch:
            icon("theme")
            HtmlElement("span", "Light or dark", "nav-label")
        if not context.site.auth.is_open:
            _leave(context)


def _leave(context: PageContext) -> None:
    """Who is logged in, and the way out: a form, as a link must change nothing."""
    with (
        HtmlElement("form", None, "leave", method="post", action=context.url("/logout")),
        HtmlElement("button", None, "nav-item", title=f"Log out {context.visitor.name}", aria_label="Log out"),
    ):
        icon("leave")
        HtmlElement("span", context.visitor.name, "nav-label")
        if not context.visitor.may_change and context.visitor.name != "viewer":
            HtmlElement("small", "viewer")


def _banner(context: PageContext) -> None:
    """Says that the coordinator or RabbitMQ is away, as long as it is."""
    banner = HtmlElement("div", None, "banner", role="alert")

    def show(_: Update | None = None) -> None:
        trouble = context.site.live.trouble
        banner.set_text(_AWAY.get(trouble, trouble) if trouble else "")
        banner.classes(add="shown" if trouble else "", remove="" if trouble else "shown")

    show()
    context.hear({"state"}, show)


def _bell(context: PageContext) -> None:
    """The notices: how many came since the page was opened, a list of the latest, and each new one for a moment."""
    notices, session = context.site.notices, context.visitor.session
    with HtmlElement(
        "button", None, "nav-item bell", type="button", popovertarget="notices", aria_label="Notices"
    ) as bell:
        icon("bell")
        HtmlElement("span", "Notices", "nav-label")
        count = HtmlElement("span", None, "count")
    panel = HtmlElement("div", None, "notices", id="notices", popover="auto")
    fresh: set[int] = set()
    shown: dict[int, HtmlElement] = {}

    def fill() -> None:
        panel.clear()
        with panel:
            HtmlElement("h2", "Notices")
            mine = [notice for notice in notices.latest if notice.is_for(session)]
            for notice in mine:
                with HtmlElement("a", None, "notice", href=_target(context, notice), data_kind=notice.kind):
                    HtmlElement("strong", notice.title)
                    HtmlElement("span", notice.description)
                    ago(notice.at)
            if not mine:
                HtmlElement(
                    "p", "Nothing yet. Tasks that fail or are overdue are told here, and yours when they are done."
                )

    def told(notice: Notification) -> None:
        if not notice.is_for(session) or context.toasts is None:
            return
        fresh.add(notice.number)
        count.set_text(str(len(fresh)))
        fill()
        toast = shown.get(notice.number)
        if toast is None or toast.is_deleted:  # else it is still to be seen, and counts on
            toast = context.toast(notice.kind)
            shown.clear()
            shown[notice.number] = toast
        toast.clear()
        with toast, HtmlElement("a", None, href=_target(context, notice)):
            HtmlElement("strong", notice.title)
            HtmlElement("span", notice.description)

    def seen() -> None:
        fresh.clear()
        count.set_text("")

    bell.on("click", seen, args=[])
    fill()
    notices.listeners.add(told)
    context.client.on_delete(lambda: notices.listeners.discard(told))


def _target(context: PageContext, notice: Notification) -> str:
    if notice.count == 1:
        return context.task_url(notice.task_id)
    return context.url("/" if notice.kind == "overdue" else f"/?status={notice.kind.replace('finished', 'completed')}")
