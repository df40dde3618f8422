"""The frame around every page: where one is, where one can go, what is wrong, what is new."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from nicegui import ui

from fluffle.web.actions import PageActions
from fluffle.web.components import HtmlElement, ago, icon
from fluffle.web.live import Update
from fluffle.web.notifications import Notification

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
def frame(desk: PageActions, current: str, title: str) -> Iterator[HtmlElement]:
    """The frame, with the content of the page inside. Yields the place for what can be done, beside the title."""
    ui.page_title(f"{title} · Fluffle")
    layout = desk.client.content.parent_slot
    assert layout is not None
    layout.parent.props["role"] = "none"  # it would be a `main` around the navigation
    HtmlElement("a", "Skip to content", "skip", href="#content")
    with HtmlElement("div", None, "shell"):
        _navigation(desk, current)
        with HtmlElement("main", None, "main", id="content", tabindex="-1"):
            _banner(desk)
            with HtmlElement("header", None, "head"):
                HtmlElement("h1", title)
                actions = HtmlElement("div", None, "actions")
            yield actions
    desk.toasts = HtmlElement("div", None, "toasts", role="status", aria_live="polite")


def _navigation(desk: PageActions, current: str) -> None:
    with HtmlElement("nav", None, "nav", aria_label="Pages"):
        with HtmlElement("a", None, "brand", href=desk.url("/")):
            ui.html(RABBIT, sanitize=False, tag="span")
            HtmlElement("span", "Fluffle")
        for name, label, path in PAGES:
            marked = "page" if name == current else None
            with HtmlElement("a", None, "nav-item", href=desk.url(path), aria_current=marked, data_page=name):
                icon(name)
                HtmlElement("span", label)
        HtmlElement("div", None, "nav-space")
        _bell(desk)
        switch = HtmlElement(
            "button", None, "nav-item", type="button", aria_label="Light or dark", title="Light or dark"
        )
        switch.on("click", js_handler="() => fluffle.switchTheme()")
        with switch:
            icon("theme")
            HtmlElement("span", "Light or dark", "nav-label")
        if not desk.site.door.is_open:
            _leave(desk)


def _leave(desk: PageActions) -> None:
    """Who is logged in, and the way out: a form, as a link must change nothing."""
    with (
        HtmlElement("form", None, "leave", method="post", action=desk.url("/logout")),
        HtmlElement("button", None, "nav-item", title=f"Log out {desk.visitor.name}", aria_label="Log out"),
    ):
        icon("leave")
        HtmlElement("span", desk.visitor.name, "nav-label")
        if not desk.visitor.may_change and desk.visitor.name != "viewer":
            HtmlElement("small", "viewer")


def _banner(desk: PageActions) -> None:
    """Says that the coordinator or RabbitMQ is away, as long as it is."""
    banner = HtmlElement("div", None, "banner", role="alert")

    def show(_: Update | None = None) -> None:
        trouble = desk.site.live.trouble
        banner.set_text(_AWAY.get(trouble, trouble) if trouble else "")
        banner.classes(add="shown" if trouble else "", remove="" if trouble else "shown")

    show()
    desk.hear({"state"}, show)


def _bell(desk: PageActions) -> None:
    """The notices: how many came since the page was opened, a list of the latest, and each new one for a moment."""
    notices, session = desk.site.notices, desk.visitor.session
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
                with HtmlElement("a", None, "notice", href=_target(desk, notice), data_kind=notice.kind):
                    HtmlElement("strong", notice.title)
                    HtmlElement("span", notice.description)
                    ago(notice.at)
            if not mine:
                HtmlElement(
                    "p", "Nothing yet. Tasks that fail or are overdue are told here, and yours when they are done."
                )

    def told(notice: Notification) -> None:
        if not notice.is_for(session) or desk.toasts is None:
            return
        fresh.add(notice.number)
        count.set_text(str(len(fresh)))
        fill()
        toast = shown.get(notice.number)
        if toast is None or toast.is_deleted:  # else it is still to be seen, and counts on
            toast = desk.toast(notice.kind)
            shown.clear()
            shown[notice.number] = toast
        toast.clear()
        with toast, HtmlElement("a", None, href=_target(desk, notice)):
            HtmlElement("strong", notice.title)
            HtmlElement("span", notice.description)

    def seen() -> None:
        fresh.clear()
        count.set_text("")

    bell.on("click", seen, args=[])
    fill()
    notices.listeners.add(told)
    desk.client.on_delete(lambda: notices.listeners.discard(told))


def _target(desk: PageActions, notice: Notification) -> str:
    if notice.count == 1:
        return desk.task_url(notice.task_id)
    return desk.url("/" if notice.kind == "overdue" else f"/?status={notice.kind.replace('finished', 'completed')}")
