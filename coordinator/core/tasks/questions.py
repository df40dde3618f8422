"""Running attempts that wait without a slot: for a delegated task, or for a person's answer."""

from broker.errors import Problem
from broker.protocol.status import Status
from broker.timestamps import Instant
from coordinator.core.budgets.admission import is_about_budget
from coordinator.core.budgets.enforcement import answered as budget_answered
from coordinator.core.commands import SendPersonAnswer
from coordinator.core.events import AnswerGiven, WaitBegan, WaitEnded
from coordinator.core.state import NOT_YOURS, CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import ANYBODY, OpenQuestion, Task

_TOLD = 200  # characters of a question or an answer in the history


class Questions:
    """Parks waiting attempts, and delivers the answers of people."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def wait_began(self, event: WaitBegan, now: Instant) -> None:
        """An attempt waits: its slot is free. A question is asked once, however often the report arrives."""
        wait = event.wait
        task = self._state.held(wait.task_id, wait.attempt, event.llm, wait.instance)
        if task is None:
            self._state.stop(event.llm, wait.instance, wait.task_id, wait.attempt, NOT_YOURS)
            return
        self._state.park(task, now)
        if (question := wait.question) is None:
            return
        known = [asked for asked in task.questions if asked.id == question.id]
        if not known:
            transitions.ask(task, OpenQuestion(question.id, question.text, tuple(question.choices), now), now)
            task.note(now, event.llm, f"asked: {_in_short(question.text)}")
            self._state.touch(task)
            self._state.announce(task, now)
        elif known[0].answer is not None:  # the answer was lost on the way to the instance
            self._tell(task, known[0])

    def wait_ended(self, event: WaitEnded, now: Instant) -> None:
        """An attempt goes on; its open questions are withdrawn."""
        resume = event.resume
        task = self._state.held(resume.task_id, resume.attempt, event.llm, resume.instance)
        if task is None:
            self._state.stop(event.llm, resume.instance, resume.task_id, resume.attempt, NOT_YOURS)
            return
        if task.status is Status.INPUT_REQUIRED:
            transitions.resume(task, now)
            self._state.announce(task, now)
        self._state.unpark(task, now)

    def answered(self, event: AnswerGiven, now: Instant) -> None:
        """A person answered: the attempt goes on, or a new one begins where the asking attempt is lost."""
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        asked = _meant(task, event)
        if isinstance(asked, Problem):
            self._state.refuse(task.id, event.sender, asked)
            return
        by = event.sender.user or ANYBODY
        answered = task.answer(asked, event.answer, by, now)
        task.note(now, by, f"answered: {_in_short(event.answer)}")
        self._state.touch(task)
        if task.in_hand:
            self._tell(task, answered)
        if is_about_budget(asked):
            budget_answered(self._state, task, event.answer, now)
        elif not task.open_questions:
            if task.in_hand:
                transitions.resume(task, now)
            elif task.spec.is_group:
                transitions.resume(task, now)
                self._state.dirty_groups[task.id] = None
            else:
                self._state.release(task, now)
        self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def _tell(self, task: Task, asked: OpenQuestion) -> None:
        self._state.emit(
            SendPersonAnswer(task.llm or "", task.instance or "", task.id, task.attempt, asked.id, asked.answer or "")
        )


def _meant(task: Task, given: AnswerGiven) -> OpenQuestion | Problem:
    """Return the question that is answered, or the problem."""
    still_open = {asked.id: asked for asked in task.open_questions}
    if not still_open:
        return Problem("id", f"the task has no open question: it is {task.status}")
    if given.question is None and len(still_open) > 1:
        return Problem("question", f"is missing: the task has several open questions: {', '.join(still_open)}")
    asked = still_open.get(given.question or next(iter(still_open)))
    if asked is None:
        return Problem("question", f"{given.question} is not an open question of the task: {', '.join(still_open)}")
    if asked.choices and given.answer not in asked.choices:
        return Problem("answer", f"must be one of: {', '.join(asked.choices)}")
    return asked


def _in_short(text: str) -> str:
    return text if len(text) <= _TOLD else text[: _TOLD - 1] + "…"
