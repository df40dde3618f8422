"""What running attempts wait for without a slot: a task that they have delegated, or a person who is asked."""

from broker.errors import Problem
from broker.protocol.status import Status
from broker.timestamps import Instant
from coordinator.core.commands import SendPersonAnswer
from coordinator.core.events import AnswerGiven, WaitBegan, WaitEnded
from coordinator.core.state import NOT_YOURS, CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import ANYBODY, OpenQuestion, Task

_TOLD = 200  # characters of a question or an answer in the history


class Questions:
    """Parks attempts that wait, and passes on what people answer."""

    def __init__(self, board: CoreState) -> None:
        self._state = board

    def waited(self, event: WaitBegan, now: Instant) -> None:
        """An attempt waits: its slot is free. What it asks is asked once, however often it is said."""
        wait = event.wait
        task = self._state.held(wait.task_id, wait.attempt, event.llm, wait.instance)
        if task is None:
            self._state.stop(event.llm, wait.instance, wait.task_id, wait.attempt, NOT_YOURS)
            return
        self._state.park(task)
        if (question := wait.question) is None:
            return
        known = [asked for asked in task.questions if asked.id == question.id]
        if not known:
            transitions.ask(task, OpenQuestion(question.id, question.text, tuple(question.choices), now), now)
            task.note(now, event.llm, f"asked: {_in_short(question.text)}")
            self._state.touch(task)
            self._state.announce(task, now)
        elif known[0].answer is not None:  # on its way to the instance it got lost
            self._tell(task, known[0])

    def resumed(self, event: WaitEnded, now: Instant) -> None:
        """An attempt goes on; what it has no answer to it does not ask any more."""
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
        """A person answers: the attempt goes on, or a new one begins where the one that asked is gone."""
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
        if not task.open_questions:
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
        self._state.say(
            SendPersonAnswer(task.llm or "", task.instance or "", task.id, task.attempt, asked.id, asked.answer or "")
        )


def _meant(task: Task, given: AnswerGiven) -> OpenQuestion | Problem:
    """The question that is answered, or why none is."""
    still_open = {asked.id: asked for asked in task.open_questions}
    if not still_open:
        return Problem("id", f"the task asks nothing: it is {task.status}")
    if given.question is None and len(still_open) > 1:
        return Problem("question", f"say which one: the task asks {', '.join(still_open)}")
    asked = still_open.get(given.question or next(iter(still_open)))
    if asked is None:
        return Problem("question", f"the task does not ask {given.question}, but {', '.join(still_open)}")
    if asked.choices and given.answer not in asked.choices:
        return Problem("answer", f"must be one of: {', '.join(asked.choices)}")
    return asked


def _in_short(text: str) -> str:
    return text if len(text) <= _TOLD else text[: _TOLD - 1] + "…"
