"""Submit the tasks of a plan."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from broker.errors import Problem, TaskRejected
from broker.protocol.task_requests import Submission
from broker.protocol.views import TaskView
from fluffle.client.handle import TaskHandle
from fluffle.plans.plan import PlannedTask


class Submitter(Protocol):
    """The methods of `Client` that submit a plan."""

    def submit_many(self, tasks: Iterable[str | Submission]) -> AsyncIterator[TaskHandle | TaskRejected]:
        """See `Client.submit_many`."""
        ...

    async def cancel(self, task_id: str, reason: str | None = None) -> TaskView:
        """See `Client.cancel`."""
        ...


async def submit(client: Submitter, tasks: Sequence[PlannedTask]) -> dict[str, TaskHandle]:
    """Submit the tasks of a plan, and return their handles by name.

    When one is rejected, the others are cancelled, except those that existed before. Raises TaskRejected, NoAnswer,
    PublishRefused and MessageTooLarge.
    """
    handles: dict[str, TaskHandle] = {}
    wrong: list[Problem] = []
    answers = client.submit_many(task.submission for task in tasks)
    for task in tasks:
        match await anext(answers):
            case TaskRejected() as rejected:
                wrong += [Problem(f"{task.name}.{path}".removesuffix("."), text) for path, text in rejected.problems]
            case handle:
                handles[task.name] = handle
    for handle in reversed(handles.values()) if wrong else ():
        if handle.was_known:
            continue
        with suppress(TaskRejected):  # it may be over
            await client.cancel(handle.id, "another task of its plan was rejected")
    if wrong:
        raise TaskRejected(wrong)
    return handles
