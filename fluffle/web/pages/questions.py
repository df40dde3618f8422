"""What LLMs ask people while they work."""

from nicegui import ui

from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.web.components import HtmlElement, ago, empty
from fluffle.web.layout import frame
from fluffle.web.markdown import prepared
from fluffle.web.page_context import PageContext, SharedServices
from fluffle.web.pages.task import build_question

MOST = 100  # tasks


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/questions")
    async def questions() -> None:
        context = PageContext(site)
        with frame(context, "questions", "Questions"):
            await _Questions(context).build()


class _Questions:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._shown: dict[str, HtmlElement] = {}

    async def build(self) -> None:
        """Show what is open, oldest first, and follow what is asked and answered."""
        self._place = HtmlElement("div", None, "questions")
        self._nothing = HtmlElement("div")
        with self._nothing:
            empty("No LLM asks anything", "When one needs a person while it works, its question appears here.")
        await self._context.follow(self._refresh, {"task"})

    async def _refresh(self) -> None:
        found = [view async for view in self._context.books.tasks(status=[Status.INPUT_REQUIRED], limit=MOST)]
        asking = {_key(view): view for view in reversed(found)}
        await prepared(*(question.text for view in found for question in view.questions))
        for key in self._shown.keys() - asking.keys():
            self._shown.pop(key).delete()
        for key, view in asking.items():
            if key not in self._shown:  # what somebody is writing into stays as it is
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
    """The task with what it asks now: another question is another entry."""
    return " ".join([view.id, *(question.id for question in view.questions if question.answer is None)])
