"""A question of a task, with its answer or a form to answer it."""

from functools import partial

from broker.protocol.views import QuestionView, TaskView
from fluffle.web.components import HtmlElement, button, form, rendered
from fluffle.web.markdown import markdown
from fluffle.web.page_context import PageContext


def build_question(context: PageContext, view: TaskView, question: QuestionView) -> None:
    """Add a question of a task, with a form to answer it while it is open."""
    is_open = question.answer is None and not view.status.is_final

    async def answer(given: str) -> None:
        if given.strip():
            await context.act(lambda client: client.answer(view.id, given, question=question.id), "Answered")

    with HtmlElement("section", None, "card question", data_open=str(is_open).lower()):
        HtmlElement("h2", f"{view.llm or 'The LLM'} asks" if is_open else "Asked")
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
