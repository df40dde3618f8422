"""Which user may make which request, where every user is known (`require_identity`). Everything not listed is denied.

The role comes from RabbitMQ: the user of an LLM may publish requests to the exchange for LLMs only, and everybody else
publishes to `fluffle.tasks`. People may do everything, except submit the id of somebody else's task. What an LLM may do
depends on its relation to the task.
"""

from collections.abc import Mapping
from enum import Flag, auto

from broker.errors import Problem
from broker.protocol.task_requests import board_of
from broker.protocol.topology import llm_address, user_address
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    CancelRequested,
    ManageBudgetRequested,
    ManageLimitRequested,
    ManageRequested,
    ManageSpendingRequested,
    NotesRequested,
    ReportSaved,
    Request,
    RetryRequested,
    Shared,
    Submitted,
    UpdateRequested,
)
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.lineage import root_of
from coordinator.core.tasks.task import Task

Restricted = Request | AnswerGiven | Shared | NotesRequested
"""Every kind of request that is checked here."""


class Relation(Flag):
    """The relation of an LLM to a task."""

    NONE = 0
    SUBMITTED = auto()  # the LLM has submitted the task
    HAS = auto()  # the LLM has the task now
    HAD = auto()  # the LLM had an attempt at the task
    TREE = auto()  # the task has the same root as the task that the LLM delegates from


MAY_DELEGATE_FROM = Relation.SUBMITTED | Relation.HAS
MAY_DEPEND_ON = Relation.SUBMITTED | Relation.HAS | Relation.HAD | Relation.TREE
MAY_STEER: Mapping[type[Restricted], Relation] = {
    CancelRequested: Relation.SUBMITTED,
    RetryRequested: Relation.SUBMITTED,
    AssignRequested: Relation.SUBMITTED,
    UpdateRequested: Relation.SUBMITTED,
}
"""The relation to the task that an LLM needs for a request about one task."""


def objection(request: Restricted, tasks: Mapping[str, Task], llms: Mapping[str, LLM]) -> Problem | None:
    """Return why the sender may not make a request; None when it may.

    The tasks that the request is about are loaded; for a submission of an LLM also the ancestors of its parent and of
    its dependencies.
    """
    user = request.sender.user or ""
    if isinstance(request, Submitted) and (known := tasks.get(request.task_id)) and known.submitted_by != user:
        return Problem("id", "is the ID of a task that somebody else has submitted")
    if isinstance(request, Shared) and request.note.by not in (user, llm_address(user), user_address(user)):
        return Problem("by", f"is {request.note.by!r}, for whom the user {user!r} does not speak")
    if (
        not request.sender.is_llm and user not in llms
    ):  # the latter: one that was granted before there were two exchanges
        return None
    match request:
        case Submitted():
            return _objection_to_submission(request, user, tasks)
        case Shared(note):
            return _objection_to_notes(note.board, user, tasks, llms)
        case NotesRequested(board):
            return _objection_to_notes(board, user, tasks, llms)
        case ManageRequested():
            return Problem("llm", f"{user} is an LLM, and may not manage LLMs")
        case ManageLimitRequested():
            return Problem("limit", f"{user} is an LLM, and may not manage rate limits")
        case ManageBudgetRequested():
            return Problem("budget", f"{user} is an LLM, and may not change budgets")
        case ManageSpendingRequested():
            return Problem("stopped", f"{user} is an LLM, and may not stop or allow spending")
        case ReportSaved():
            return Problem("name", f"{user} is an LLM, and may not save reports")
        case AnswerGiven():
            return Problem("id", f"{user} is an LLM, and may not answer questions to people")
        case _:
            task = tasks.get(request.task_id)
            if task is None or relation(user, task) & MAY_STEER.get(type(request), Relation.NONE):
                return None  # an unknown task is refused later, as for everybody
            return Problem("id", f"{user} is an LLM, and may change only tasks that it has submitted")


def relation(llm: str, task: Task) -> Relation:
    """Return the relation of an LLM to a task, apart from its tree."""
    found = Relation.NONE
    if task.submitted_by == llm:
        found |= Relation.SUBMITTED
    if task.llm == llm and task.in_hand:
        found |= Relation.HAS
    if any(attempt.llm == llm for attempt in task.attempts):
        found |= Relation.HAD
    return found


def _objection_to_submission(request: Submitted, llm: str, tasks: Mapping[str, Task]) -> Problem | None:
    spec = request.spec
    parent = tasks.get(spec.parent_id) if spec.parent_id else None
    if parent is not None and not relation(llm, parent) & MAY_DELEGATE_FROM:
        return Problem("parent_id", f"{llm} is an LLM, and may add parts only to tasks that it has or has submitted")
    if (problem := _objection_to_board(request, llm, parent)) is not None:
        return problem
    tree = None if parent is None else root_of(parent, tasks)
    for place, task_id in enumerate(spec.depends_on):
        task = tasks.get(task_id)
        held = Relation.NONE if task is None else relation(llm, task)
        if task is not None and tree is not None and root_of(task, tasks) == tree:
            held |= Relation.TREE
        if not held & MAY_DEPEND_ON:
            text = f"{llm} is an LLM, and may depend only on tasks that it has, has submitted, or that are in its tree"
            return Problem(f"depends_on.{place}", text)
    return None


def _objection_to_board(request: Submitted, llm: str, parent: Task | None) -> Problem | None:
    """A task gives access to the notes of its conversation: an LLM must not choose a conversation of others."""
    spec = request.spec
    if spec.conversation_id is not None:
        if parent is not None and spec.conversation_id == board_of(parent.id, parent.spec.conversation_id):
            return None
        text = f"{llm} is an LLM, and may name only the conversation of the parent task"
        return Problem("conversation_id", text)
    if spec.id is not None and not spec.id.startswith(f"{llm}."):  # the conversation is named by this id
        return Problem("id", f"{llm} is an LLM: ids that it chooses begin with {llm!r} and a dot")
    return None


def _objection_to_notes(board: str, llm: str, tasks: Mapping[str, Task], llms: Mapping[str, LLM]) -> Problem | None:
    held = llms[llm].tasks() if llm in llms else ()
    if any(board_of(task_id, tasks[task_id].spec.conversation_id) == board for task_id in held):
        return None
    return Problem("board", f"{llm} is an LLM, and may use only the notes of the tasks that it has")
