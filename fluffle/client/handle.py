"""A task that was submitted, as its submitter holds it."""

import asyncio
from typing import Any

from broker.amqp.envelope import Outgoing
from broker.errors import FluffleError, ResultTooLarge, TaskCancelled, TaskFailed
from broker.protocol.primitives import decode
from broker.protocol.status import Status
from broker.protocol.views import TaskView

_KNOWN = b'"known":true'  # is in what tells that a task was there before, and perhaps in other views


def outcome(view: TaskView) -> Any:
    """The result of a task that is over. Raises TaskFailed or TaskCancelled when it has none, or ResultTooLarge."""
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
            raise ValueError(f"task {view.id} is {view.status}, not over")


def reason(view: TaskView) -> str:
    """Why a task failed, as one line."""
    if view.error is None:
        return "no reason was given"
    return f"{view.error.type}: {view.error.message}" if view.error.message else view.error.type


class TaskHandle:
    """A submitted task: `id`, `view` (how it stood when last heard of), and its result to wait for.

    `body` is the submission as it was published.

    A client listens for the end of a task for as long as somebody holds its handle.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_ended",
        "_known",
        "_sent_again",
        "_submission",
        "_told",
        "body",
        "id",
        "is_confirmed",
    )

    def __init__(self, submission: Outgoing) -> None:
        loop = asyncio.get_running_loop()
        self.id = submission.message_id or ""
        self.body = submission.body
        self.is_confirmed = False  # whether RabbitMQ has the submission
        self._sent_again = self._known = False
        self._submission: Outgoing | None = submission  # to send again after a reconnect, until the task is over
        self._told: TaskView | bytes | None = None  # JSON until somebody looks at it
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[TaskView] = loop.create_future()

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id} {'submitted' if self._told is None else self.view.status}>"

    @property
    def view(self) -> TaskView:
        """The task as it stood when the coordinator last spoke of it to this client."""
        assert self._told is not None, "a handle is given out once the task is accepted"
        if isinstance(self._told, bytes):
            self._told = decode(TaskView, self._told, limit=len(self._told))
        return self._told

    @property
    def was_known(self) -> bool:
        """Whether the task was there before it was submitted here: by somebody else, or in an earlier program."""
        return self._known and not self._sent_again

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return the result, any JSON. `timeout` in seconds; None waits for ever.

        Raises TaskFailed, TaskCancelled, ResultTooLarge, TimeoutError; ConnectionClosed when the client closes first.
        """
        return outcome(await self.end(timeout))

    async def end(self, timeout: float | None = None) -> TaskView:
        """Wait for the end, whatever it is, and return the task. `timeout` in seconds; None waits for ever.

        Raises TimeoutError, and ConnectionClosed when the client closes first.
        """
        if self._ended.done():
            return self._ended.result()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._ended)
        except TimeoutError as error:
            raise TimeoutError(f"task {self.id} is {self.view.status} after {timeout:g} s") from error

    # -- the client's side -----------------------------------------------------------------------------------------

    @property
    def unanswered(self) -> Outgoing | None:
        """The submission, while the coordinator has not answered it."""
        return None if self._accepted.done() else self._submission

    @property
    def submission(self) -> Outgoing | None:
        """The submission, until the task is over. Whoever publishes it again hears of the end at its `reply_to`."""
        return self._submission

    def sending_again(self) -> None:
        """The submission is published once more: it may be known by then, because of the first time."""
        self._sent_again = True

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected."""
        return self._ended.done()

    async def accepted(self) -> None:
        """Wait for the coordinator's word. Raises TaskRejected, or why the submission could not be published."""
        if self._accepted.done():
            return self._accepted.result()
        return await asyncio.shield(self._accepted)

    def accept(self, told: TaskView | bytes) -> None:
        """The coordinator has the task, which stands as it tells: a TaskView, or one as JSON."""
        if isinstance(told, bytes) and _KNOWN in told:
            told = decode(TaskView, told, limit=len(told))
            self._known = bool(told.known)
        self._told = told
        if not self._accepted.done():
            self._accepted.set_result(None)

    def update(self, view: TaskView) -> None:
        """The coordinator says how the task stands, perhaps that it is over."""
        self.accept(view)
        if view.status.is_final and not self._ended.done():
            self._ended.set_result(view)
            self._submission = None

    def fail(self, error: FluffleError) -> None:
        """The submission is refused, or nothing more will be heard."""
        self._submission = None
        for future in (self._accepted, self._ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody has to wait for it
