"""Requests to the coordinator and its answers, over one link and one reply queue, also across reconnects."""

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.best_effort import best_effort
from broker.errors import (
    BrokerBlocked,
    BrokerError,
    ConnectionClosed,
    DecodeError,
    NoAnswer,
    Problem,
    QueryRejected,
    TaskRejected,
)
from broker.fault_injection import crash_point_soon
from broker.ids import uuid7
from broker.protocol.primitives import decode, problems
from broker.protocol.queries import (
    ConversationsQuery,
    LLMsQuery,
    MessagesQuery,
    PlacementQuery,
    ReportQuery,
    ReportsQuery,
    SaveReport,
    TaskQuery,
    TasksQuery,
)
from broker.protocol.task_requests import AnswerQuestion, AssignTask, Cancel, ManageLLM, Retry, Submission, Update
from broker.protocol.topology import COORDINATOR, MESSAGES, QUERIES, REPLIES, TASKS, Queue, Topology
from broker.protocol.views import Rejection, TaskView
from fluffle.client.connect import open_link
from fluffle.client.handle import TaskHandle

if TYPE_CHECKING:
    from fluffle.client.tracing import ClientTracing

Query = (
    TaskQuery
    | TasksQuery
    | LLMsQuery
    | PlacementQuery
    | ReportQuery
    | ReportsQuery
    | MessagesQuery
    | ConversationsQuery
)
Command = Cancel | Retry | AssignTask | Update | AnswerQuestion | ManageLLM | SaveReport

T = TypeVar("T")

AT_ONCE = 100  # queries under way when there are many to make
_ASK_AGAIN = 2.0  # seconds between two queries about a task
_QUERY_LIFE = 30.0  # seconds after which RabbitMQ drops a query that no coordinator has taken

_LOOK_WITHIN = 2.0  # seconds to find out whether a coordinator runs
_LATER = {
    TASKS: ". The command may still be carried out later",
    MESSAGES: ". The message may still be sent later",
}
"""What may happen yet to what RabbitMQ has not confirmed."""
_CONSUMED = {TASKS: COORDINATOR, QUERIES: QUERIES}  # the coordinator's queue of an exchange

_log = logging.getLogger(__name__)


class RequestClient:
    """What was sent and not yet answered.

    The reply queue lives as long as its connection, so answers are lost with it, and the next one has another name.
    After a reconnect, submissions of tasks whose end is awaited are published again, which says where answers are to
    go from then on, and so are queries. A command is not: done twice it would be refused.
    """

    def __init__(self, url: str, name: str, answer_timeout: float, tracing: "ClientTracing | None" = None) -> None:
        self._tracing = tracing
        self._url = url
        self._name = name
        self._answer_timeout = answer_timeout
        self._reply_to = f"{REPLIES}.{uuid7()}"
        self._tasks: WeakValueDictionary[str, TaskHandle] = WeakValueDictionary()
        # Further submissions with the id of one of these, by their correlation ids. They may be the same, or mistakes.
        self._others: WeakValueDictionary[str, TaskHandle] = WeakValueDictionary()
        self._requests: dict[str, tuple[Outgoing, asyncio.Future[bytes]]] = {}
        self._numbers = itertools.count()
        self._catching_up: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._opened = AsyncExitStack()
        self._link: RobustConnection

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            link = open_link(self._url, name=self._name, on_state=self._on_state)
            self._link = await opening.enter_async_context(link)
            await self._link.declare(Topology(queues=(Queue(self._reply_to, exclusive=True),)))
            await self._link.consume(self._reply_to, self._on_answer, auto_ack=True)
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *reason: object) -> None:
        for catching_up in (self._catching_up, *self._following):
            if catching_up is not None:
                catching_up.cancel()
        await self._opened.aclose()
        closed = ConnectionClosed("the client was closed")
        for handle in self._handles():
            handle.fail(closed)
        for _, answer in self._requests.values():
            if not answer.done():
                answer.set_exception(closed)

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        return self._link.connected

    @property
    def link(self) -> RobustConnection:
        """The link that carries all of it."""
        return self._link

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until the link takes another message without piling up."""
        await self._link.room()

    def send(self, submission: Submission) -> TaskHandle:
        """Publish a submission that has its id, without waiting for anything.

        Raises TaskRejected when it cannot be sent: what is in it was changed after it was checked.
        """
        task_id = submission.id
        assert task_id is not None
        if submission.answers != "all":  # a handle needs them
            submission = submission.model_copy(update={"answers": "all"})
        message = Outgoing(
            TASKS,
            Submission.routing_key,
            _encoded(submission),
            message_id=task_id,
            correlation_id=task_id,
            reply_to=self._reply_to,
        )
        if self._tracing is not None:
            with best_effort("the span of a submission"):
                self._tracing.submitting(message)
        handle = self._tasks.get(task_id)
        if handle is None or handle.is_over:
            handle = self._tasks[task_id] = TaskHandle(message)
        elif handle.body != message.body:  # the coordinator finds out whether it is the same task
            number = message.correlation_id = f"{task_id}{self._number()}"
            handle = self._others[number] = TaskHandle(message)
        self._publish(handle, message)
        return handle

    def _publish(self, handle: TaskHandle, message: Outgoing) -> None:
        self._link.send(message, partial(_on_published, handle))
        crash_point_soon("task-published")

    async def accepted(self, handle: TaskHandle) -> None:
        """Wait for the answer to a submission. Raises TaskRejected, NoAnswer, or why it could not be published."""
        if handle.unanswered is None:
            return await handle.accepted()
        try:
            async with asyncio.timeout(self._answer_timeout):
                await handle.accepted()
        except TimeoutError as error:
            raise await self.no_answer(TASKS, confirmed=handle.is_confirmed, task=handle.id) from error

    # -- queries and commands --------------------------------------------------------------------------------------

    async def ask(self, query: Query) -> bytes:
        """The JSON body of the answer to a query. Raises QueryRejected and NoAnswer."""
        return await self._request(
            Outgoing(
                QUERIES,
                query.routing_key,
                query.encode(),
                correlation_id=self._number(),
                reply_to=self._reply_to,
                expiration=_QUERY_LIFE,
                persistent=False,
            )
        )

    async def command(self, command: Command) -> bytes:
        """The JSON body of the answer to a command. Raises TaskRejected and NoAnswer."""
        return await self._request(
            Outgoing(
                TASKS,
                command.routing_key,
                command.encode(),
                message_id=uuid7(),
                correlation_id=self._number(),
                reply_to=self._reply_to,
            )
        )

    def _number(self) -> str:
        return f"#{next(self._numbers)}"  # no id of a task has this sign

    async def _request(self, message: Outgoing) -> bytes:
        assert message.correlation_id is not None
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._requests[message.correlation_id] = message, answer
        confirmed = False
        try:
            async with asyncio.timeout(self._answer_timeout):
                await self._link.publish(message)
                confirmed = True
                return await answer
        except TimeoutError as error:
            raise await self.no_answer(message.exchange, confirmed=confirmed) from error
        finally:
            del self._requests[message.correlation_id]

    async def no_answer(self, exchange: str, *, confirmed: bool, task: str | None = None) -> NoAnswer:
        """Why a request has no answer, and where the task is that it submits."""
        where, within = self._link.where, f"within {self._answer_timeout:g} s"
        if task is None:
            then = "" if confirmed else _LATER.get(exchange, "")
        elif confirmed:
            then = f". Task {task} is in RabbitMQ and will be done"
        else:
            then = f", and has not confirmed task {task}: submit it again with the same id"
        if self._link.blocked:
            later = " when it takes messages again" if task and confirmed else ""
            return BrokerBlocked(f"{self._link.obstacle}{then}{later}")
        if not self._link.connected:
            later = " when it is back" if task and confirmed else ""
            return NoAnswer(f"RabbitMQ at {where} was lost and is not back {within}{then}{later}")
        if not confirmed:
            return NoAnswer(f"RabbitMQ at {where} has not answered {within}{then}")
        if await self._coordinator_runs(exchange):
            return NoAnswer(f"the coordinator has not answered {within}{then}")
        start = f"{then} when a coordinator comes: start" if task else ". Start"
        return NoAnswer(f"no coordinator answered {within}{start} one with `fluffle coordinator`")

    async def _coordinator_runs(self, exchange: str) -> bool:
        """Whether somebody takes what is published to that exchange."""
        with suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(_LOOK_WITHIN):
                return await self._link.has_consumers(_CONSUMED[exchange])
        return False

    # -- answers ---------------------------------------------------------------------------------------------------

    def _on_answer(self, delivery: Delivery) -> None:
        key, kind, body = delivery.properties.correlation_id or "", delivery.properties.type, delivery.body
        try:
            if (handle := self._tasks.get(key) or self._others.get(key)) is not None:
                if kind == "task.rejected" and handle.unanswered is None:
                    self._follow(handle)
                elif kind == "task.rejected":
                    handle.fail(TaskRejected(_reasons(body)))
                elif kind == "task.accepted":
                    handle.accept(body)
                else:
                    if self._tracing is not None:
                        self._tracing.ended(delivery)
                    self._on_end(handle, decode(TaskView, body, limit=len(body)))
            elif key in self._requests:
                answer = self._requests[key][1]
                if answer.done():
                    return
                if kind == "task.rejected":
                    answer.set_exception(TaskRejected(_reasons(body)))
                elif kind == "query.rejected":
                    answer.set_exception(QueryRejected(_reasons(body)))
                else:
                    answer.set_result(body)
        except DecodeError as error:
            _log.warning("ignored an answer of type %s that cannot be read: %s", kind, error)

    def _on_end(self, handle: TaskHandle, view: TaskView) -> None:
        """A task has ended. The coordinator tells it once, at the newest of the correlation ids."""
        handle.update(view)
        if first := self._tasks.get(view.id):
            first.update(view)
        for other in list(self._others.values()):
            if other.id == view.id and other.unanswered is None:
                other.update(view)

    def _handles(self) -> list[TaskHandle]:
        return [*self._tasks.values(), *self._others.values()]

    # -- reconnects ------------------------------------------------------------------------------------------------

    def _on_state(self, connected: bool) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None
        if connected:
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        queries = [message for message, _ in self._requests.values() if message.exchange == QUERIES]
        for message in queries:
            self._link.publish_soon(message).add_done_callback(_log_failure)
        for handle in self._handles():
            if (submission := handle.submission) is not None:
                await self._link.room()
                handle.sending_again()
                self._publish(handle, submission)

    def _follow(self, handle: TaskHandle) -> None:
        """Ask for a task whose submission is refused when it comes again, as the task was changed meanwhile."""
        following = asyncio.create_task(self._until_over(handle))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _until_over(self, handle: TaskHandle) -> None:
        while not handle.is_over:
            try:
                answer = await self.ask(TaskQuery(id=handle.id))
                handle.update(decode(TaskView, answer, limit=len(answer)))
            except NoAnswer as error:
                _log.warning("task %s: %s; asking for its state again", handle.id, error)
            await asyncio.sleep(_ASK_AGAIN)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    left = iter(list(items))
    while some := list(itertools.islice(left, size)):
        yield some


def _encoded(submission: Submission) -> bytes:
    try:
        return submission.encode()
    except PydanticSerializationError as error:
        try:
            Submission.model_validate(dict(submission))
        except ValidationError as why:
            raise TaskRejected(problems(why)) from error
        raise TaskRejected([Problem("", str(error))]) from error


def _on_published(handle: TaskHandle, _: Outgoing, error: BrokerError | None) -> None:
    if error is None:
        handle.is_confirmed = True
    else:
        handle.fail(error)


def _log_failure(published: asyncio.Future[None]) -> None:
    if (error := published.exception()) is not None:
        _log.warning("a request could not be sent again: %s", error)


def _reasons(body: bytes) -> list[Problem]:
    return [Problem(wrong.path, wrong.message) for wrong in decode(Rejection, body).errors]
