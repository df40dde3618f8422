"""Who may ask what, where everybody is known (`require_identity`). People may steer all tasks; LLMs only their own."""

from collections.abc import Container, Mapping

from broker.errors import Problem
from coordinator.core.events import AnswerGiven, ManageRequested, ReportSaved, Request, Submitted
from coordinator.core.task import Task


def objection(request: Request | AnswerGiven, tasks: Mapping[str, Task], llms: Container[str]) -> Problem | None:
    """Why its sender may not ask that; None when it may. The tasks that it is about are loaded."""
    user = request.sender.user
    match request:
        case ManageRequested():
            return Problem("llm", f"{user} is an LLM, and manages none") if user in llms else None
        case ReportSaved():
            return Problem("name", f"{user} is an LLM, and keeps no reports") if user in llms else None
        case AnswerGiven():
            return Problem("id", f"{user} is an LLM; a person is asked") if user in llms else None
        case Submitted(task_id):
            known = tasks.get(task_id)
            if known is not None and known.submitted_by != user:
                return Problem("id", "is the id of a task that somebody else has submitted")
            return None
        case _:
            task = tasks.get(request.task_id)
            if task is not None and user in llms and task.submitted_by != user:
                return Problem("id", f"{user} is an LLM, and steers only tasks that it has submitted itself")
            return None
