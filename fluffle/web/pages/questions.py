"""Open questions of LLMs to people."""

from nicegui import ui

from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.web.components import HtmlElement, ago, empty
from fluffle.web.layout import frame
from fluffle.web.markdown import prepared
from fluffle.web.page_context import PageContext, SharedServices
from fluffle.web.pages.question import build_question

MAX_TASKS_SHOWN = 100


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/questions")
    async def questions() -> None:
        context = PageContext(site)
        with frame(context, "questions", "Questions"):
            await _Questions(context).follow()


class _Questions:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._shown: dict[str, HtmlElement] = {}
        self._place = HtmlElement("div", None, "questions")
        self._nothing = HtmlElement("div")
        with self._nothing:
            empty("No open questions", "When an LLM needs a person, its question appears here.")

    async def follow(self) -> None:
        """Show the open questions, oldest first, and update them while the page is open."""
        await self._context.follow(self._refresh, {"task"})

    async def _refresh(self) -> None:
        reader, asks = self._context.reader, [Status.INPUT_REQUIRED]
        found = [view async for view in reader.tasks(status=asks, limit=MAX_TASKS_SHOWN)]
        asking = {_key(view): view for view in reversed(found)}
        await prepared(*(question.text for view in found for question in view.questions))
        for key in self._shown.keys() - asking.keys():
            self._shown.pop(key).delete()
        for key, view in asking.items():
            if key not in self._shown:  # a form that a person is filling in stays as it is
                with self._place:
                    self._shown[key] = self._build(view)
        self._nothing.set_visibility(not asking)

    def _build(self, view: TaskView) -> HtmlElement:
        with HtmlElement("article", None, "asking") as made:
            with HtmlElement("p", None, "asking-head"):
                HtmlElement("a", view.description, href=self._context.task_url(view.id))
                for question in view.questions:
                    if question.answer is None:
                        ago(question.asked_at)
                        break
            for question in view.questions:
                if question.answer is None:
                    build_question(self._context, view, question)
        return made


def _key(view: TaskView) -> str:
    """Return a key for the task and its open questions: a new question makes a new entry."""
    return " ".join([view.id, *(question.id for question in view.questions if question.answer is None)])
