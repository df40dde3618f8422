"""The handle of a submitted task: `TaskHandle` as the submitter uses it, `Submitted` as the client updates it."""

import asyncio
from typing import Any

from broker.amqp.envelope import Outgoing
from broker.errors import FluffleError, ResultTooLarge, TaskCancelled, TaskFailed
from broker.protocol.primitives import decode
from broker.protocol.status import Status
from broker.protocol.views import TaskView

_KNOWN = b'"known":true'  # in every answer to a submission of a known task, and perhaps elsewhere in a view


def outcome(view: TaskView) -> Any:
    """Return the result of a finished task. Raises TaskFailed, TaskCancelled or ResultTooLarge when there is none."""
    match view.status:
        case Status.COMPLETED:
            if "result" in view.left_out:
                size = view.left_out["result"]
                raise ResultTooLarge(f"the result of task {view.id} has {size:,} bytes, too many for an answer")
            return view.result
        case Status.FAILED:
            raise TaskFailed(f"task {view.id} failed: {reason(view)}")
        case Status.CANCELLED:
            raise TaskCancelled(f"task {view.id} was cancelled" + (f": {reason(view)}" if view.error else ""))
        case _:
            raise ValueError(f"task {view.id} is {view.status}, not finished")


def reason(view: TaskView) -> str:
    """Return why a task failed, as one line."""
    if view.error is None:
        return "no reason was given"
    return f"{view.error.type}: {view.error.message}" if view.error.message else view.error.type


class TaskHandle:
    """A submitted task: its `id`, its last known status and fields, and its result to wait for.

    The client receives the end of a task as long as the program keeps the handle.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_ended",
        "_known",
        "_sent_again",
        "_submission",
        "_view",
        "body",
        "id",
        "is_confirmed",
    )

    def __init__(self, submission: Outgoing) -> None:
        loop = asyncio.get_running_loop()
        self.id = submission.message_id or ""
        self.body = submission.body  # as it was published
        self.is_confirmed = False  # whether RabbitMQ has the submission
        self._sent_again = self._known = False
        self._submission: Outgoing | None = submission  # to publish again after a reconnect, until the task is over
        self._view: TaskView | bytes | None = None  # JSON until somebody reads it
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[TaskView] = loop.create_future()

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id} {'submitted' if self._view is None else self.view.status}>"

    @property
    def view(self) -> TaskView:
        """The task as the coordinator last reported it to this client."""
        assert self._view is not None, "a program gets the handle when the task is accepted"
        if isinstance(self._view, bytes):
            self._view = decode(TaskView, self._view, limit=len(self._view))
        return self._view

    @property
    def was_known(self) -> bool:
        """Whether the task existed before this submission: from another program, or an earlier run of this one."""
        return self._known and not self._sent_again

    @property
    def is_over(self) -> bool:
        """Whether the task is over, or the client cannot receive its end any more."""
        return self._ended.done()

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the result, any JSON. `timeout` in seconds; None waits without limit.

        Raises TaskFailed, TaskCancelled, ResultTooLarge, TimeoutError, and ConnectionClosed when the client closes
        first.
        """
        return outcome(await self.end(timeout))

    async def end(self, timeout: float | None = None) -> TaskView:
        """Wait for the end, successful or not, and return the task. `timeout` in seconds; None waits without limit.

        Raises TimeoutError, and ConnectionClosed when the client closes first.
        """
        if self._ended.done():
            return self._ended.result()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._ended)
        except TimeoutError as error:
            raise TimeoutError(f"task {self.id} is {self.view.status} after {timeout:g} s") from error


class Submitted(TaskHandle):
    """A handle with the methods by which the client reports what the coordinator answers."""

    __slots__ = ()

    @property
    def unanswered(self) -> Outgoing | None:
        """The submission, until the coordinator has answered it."""
        return None if self._accepted.done() else self._submission

    @property
    def submission(self) -> Outgoing | None:
        """The submission, until the task is over. The end goes to the `reply_to` of the last publication."""
        return self._submission

    def sending_again(self) -> None:
        """Note that the submission is published again: the coordinator may know it from the first time."""
        self._sent_again = True

    async def accepted(self) -> None:
        """Wait for the answer to the submission. Raises TaskRejected, or why it could not be published."""
        if self._accepted.done():
            return self._accepted.result()
        return await asyncio.shield(self._accepted)

    def accept(self, view: TaskView | bytes) -> None:
        """Note that the coordinator has accepted the task. `view` is the task, a TaskView or its JSON."""
        if isinstance(view, bytes) and _KNOWN in view:
            view = decode(TaskView, view, limit=len(view))
            self._known = bool(view.known)
        self._view = view
        if not self._accepted.done():
            self._accepted.set_result(None)

    def update(self, view: TaskView) -> None:
        """Note the state of the task, which may be its end."""
        self.accept(view)
        if view.status.is_final and not self._ended.done():
            self._ended.set_result(view)
            self._submission = None

    def fail(self, error: FluffleError) -> None:
        """End all waiting with an error: the submission is refused, or the client is closed."""
        self._submission = None
        for future in (self._accepted, self._ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody has to wait for it
