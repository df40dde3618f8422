"""The frame around every page: navigation, warnings and notices."""

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from fluffle.web.assets import RABBIT
from fluffle.web.components import HtmlElement, ago, icon
from fluffle.web.live import Update
from fluffle.web.notifications import Notification
from fluffle.web.page_context import PageContext

PAGES = (
    ("tasks", "Tasks", "/"),
    ("llms", "LLMs", "/llms"),
    ("chat", "Chat", "/chat"),
    ("questions", "Questions", "/questions"),
    ("reports", "Reports", "/reports"),
    ("budgets", "Budgets", "/budgets"),
    ("rejected", "Rejected", "/rejected"),
)
_WARNINGS = {
    "coordinator": "No coordinator answers. This page may be out of date; new tasks wait in RabbitMQ. "
    "Start a coordinator with `fluffle coordinator`: this page then updates by itself.",
    "RabbitMQ": "RabbitMQ is unavailable. This page may be out of date, and updates by itself when RabbitMQ is back.",
}
_NO_NOTICES = (
    "No notices yet. This list shows tasks that failed or are overdue, your tasks when they finish, LLMs that fail, "
    "and limits and budgets that are used up."
)


@contextmanager
def frame(context: PageContext, current: str, title: str) -> Iterator[HtmlElement]:
    """Build the frame; the block builds the content. Yields the element for actions beside the title."""
    ui.page_title(f"{title} · Fluffle")
    layout = context.client.content.parent_slot
    assert layout is not None
    layout.parent.props["role"] = "none"  # NiceGUI would make it a `main` around the navigation
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
            _logout(context)


def _logout(context: PageContext) -> None:
    """Add the name of the visitor and the logout: a form, because links must not change anything."""
    with (
        HtmlElement("form", None, "leave", method="post", action=context.url("/logout")),
        HtmlElement("button", None, "nav-item", title=f"Log out {context.visitor.name}", aria_label="Log out"),
    ):
        icon("leave")
        HtmlElement("span", context.visitor.name, "nav-label")
        if not context.visitor.may_change and context.visitor.name != "viewer":
            HtmlElement("small", "viewer")


def _banner(context: PageContext) -> None:
    """Add a warning that is shown while the coordinator or RabbitMQ is unavailable."""
    banner = HtmlElement("div", None, "banner", role="alert")

    def show(_: Update | None = None) -> None:
        trouble = context.site.live.trouble
        banner.set_text(_WARNINGS.get(trouble, trouble) if trouble else "")
        banner.classes(add="shown" if trouble else "", remove="" if trouble else "shown")

    show()
    context.listen({"state"}, show)


def _bell(context: PageContext) -> None:
    """Add the notices: the number of unread ones, a list of the latest, and each new one as a toast."""
    notices, session = context.site.notices, context.visitor.session
    with HtmlElement(
        "button", None, "nav-item bell", type="button", popovertarget="notices", aria_label="Notices"
    ) as bell:
        icon("bell")
        HtmlElement("span", "Notices", "nav-label")
        count = HtmlElement("span", None, "count")
    panel = HtmlElement("div", None, "notices", id="notices", popover="auto")
    unread: set[int] = set()
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
                HtmlElement("p", _NO_NOTICES)

    def on_notice(notice: Notification) -> None:
        if not notice.is_for(session) or context.toasts is None:
            return
        unread.add(notice.number)
        count.set_text(str(len(unread)))
        fill()
        toast = shown.get(notice.number)
        if toast is None or toast.is_deleted:  # otherwise the toast is still visible and is updated
            toast = context.toast(notice.kind)
            shown.clear()
            shown[notice.number] = toast
        toast.clear()
        with toast, HtmlElement("a", None, href=_target(context, notice)):
            HtmlElement("strong", notice.title)
            HtmlElement("span", notice.description)

    def mark_read() -> None:
        unread.clear()
        count.set_text("")

    bell.on("click", mark_read, args=[])
    fill()
    notices.listeners.add(on_notice)
    context.client.on_delete(lambda: notices.listeners.discard(on_notice))


def _target(context: PageContext, notice: Notification) -> str:
    if not notice.is_about_tasks:
        page = "/llms" if notice.kind in ("circuit_open", "circuit_closed") else "/budgets"
        return context.url(f"{page}#{notice.subject}" if notice.count == 1 else page)
    if notice.count == 1:
        return context.task_url(notice.subject)
    return context.url("/" if notice.kind == "overdue" else f"/?status={notice.kind.replace('finished', 'completed')}")
