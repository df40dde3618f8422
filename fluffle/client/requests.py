"""Submissions, queries and commands of a client, with their answers, over one connection and one reply queue.

A reply queue lives as long as its connection. So after a reconnect, unfinished submissions and queries are published
again.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel, ValidationError
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
from broker.messaging.rpc import RequestTimeout, RpcClient
from broker.protocol.primitives import WireModel, decode, problems
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
from broker.protocol.spending import BudgetsQuery, LimitsQuery, ManageBudget, ManageLimit, ManageSpending
from broker.protocol.task_requests import AnswerQuestion, AssignTask, Cancel, ManageLLM, Retry, Submission, Update
from broker.protocol.topology import COORDINATOR, MESSAGES, QUERIES, REPLIES, SHARED, TASKS, Queue, Topology
from broker.protocol.views import LLMList, LLMView, Rejection, TaskView
from fluffle.client.handle import Submitted

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
    | LimitsQuery
    | BudgetsQuery
)
Command = (
    Cancel
    | Retry
    | AssignTask
    | Update
    | AnswerQuestion
    | ManageLLM
    | ManageLimit
    | ManageBudget
    | ManageSpending
    | SaveReport
)

T = TypeVar("T")
W = TypeVar("W", bound=WireModel)
M = TypeVar("M", bound=BaseModel)

CONCURRENT_QUERIES = 100  # at most, where one call makes many
_FOLLOW_INTERVAL_SECONDS = 2.0  # between two queries about a task
_QUERY_EXPIRATION_SECONDS = 30.0  # after which RabbitMQ drops a query that no coordinator has taken
_CONSUMER_CHECK_SECONDS = 2.0  # at most, to find out whether a coordinator runs

_LATER = {
    TASKS: ". The command may still be carried out later",
    MESSAGES: ". The message may still be sent later",
}
"""What can still happen to a message that RabbitMQ has not confirmed, by exchange."""
_CONSUMED = {TASKS: COORDINATOR, QUERIES: QUERIES}  # the coordinator's queue of an exchange

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_link(url: str, *, name: str) -> AsyncIterator[RobustConnection]:
    """Connect, and declare the shared topology if it is missing. Raises BrokerUnreachable and AccessRefused."""
    async with RobustConnection(url, name=name) as link:
        await _declare_shared(link)
        yield link


async def _declare_shared(link: RobustConnection) -> None:
    """Declare the shared topology unless it exists: not every user has the permission to declare it."""
    if await link.depth(COORDINATOR) is None:
        await link.declare(SHARED)


def made(kind: type[W], refusal: type[TaskRejected] | type[QueryRejected], **values: Any) -> W:
    """Return a message with these fields. Raises `refusal` where the coordinator would reject it."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise refusal(problems(error)) from error


def read(kind: type[M], body: bytes) -> M:
    """Decode an answer of the coordinator. Raises DecodeError."""
    return decode(kind, body, limit=len(body))


async def every_llm(request_client: "RequestClient") -> AsyncIterator[LLMView]:
    """Yield every LLM that has ever reported, by name, page by page. Raises NoAnswer."""
    after: str | None = None
    while True:
        page = read(LLMList, await request_client.ask(LLMsQuery(after=after)))
        for view in page.llms:
            yield view
        if (after := page.next) is None:
            return


class RequestClient:
    """Publishes submissions, queries and commands, and passes the answers to those who wait for them.

    After a reconnect, the reply queue has another name. Submissions of unfinished tasks are published again, and tell
    the coordinator the new name; queries are published again too. A command is not: the coordinator would reject the
    second one.
    """

    def __init__(self, url: str, name: str, answer_timeout: float, tracing: "ClientTracing | None" = None) -> None:
        self._tracing = tracing
        self._answer_timeout = answer_timeout
        self._reply_to = f"{REPLIES}.{uuid7()}"
        self._tasks: WeakValueDictionary[str, Submitted] = WeakValueDictionary()
        # Other submissions with the id of a task above, by correlation id. They may be the same task, or mistakes.
        self._others: WeakValueDictionary[str, Submitted] = WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._catching_up: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._opened = AsyncExitStack()
        self._link = RobustConnection(url, name=name, on_state=self._on_state)
        self._rpc = RpcClient(self._link, self._reply_to, prefix="#")  # which no id of a task contains

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._link)
            await _declare_shared(self._link)
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
        self._rpc.fail(closed)

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._link.connected

    @property
    def link(self) -> RobustConnection:
        """The connection that carries all requests."""
        return self._link

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait until fewer messages await their confirm than the limit of the connection."""
        await self._link.room()

    def send(self, submission: Submission) -> Submitted:
        """Publish a submission that has an id, without waiting.

        Raises TaskRejected when it cannot be encoded, because it was changed after its validation.
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
            handle = self._tasks[task_id] = Submitted(message)
        elif handle.body != message.body:  # the coordinator decides whether it is the same task
            number = message.correlation_id = f"{task_id}#{next(self._numbers)}"
            handle = self._others[number] = Submitted(message)
        self._publish(handle, message)
        return handle

    def _publish(self, handle: Submitted, message: Outgoing) -> None:
        self._link.send(message, partial(_on_published, handle))
        crash_point_soon("task-published")

    async def accepted(self, handle: Submitted) -> None:
        """Wait for the answer to a submission. Raises TaskRejected, NoAnswer, or the error of its publication."""
        if handle.unanswered is None:
            return await handle.accepted()
        try:
            async with asyncio.timeout(self._answer_timeout):
                await handle.accepted()
        except TimeoutError as error:
            raise await self.no_answer(TASKS, confirmed=handle.is_confirmed, task=handle.id) from error

    # -- queries and commands --------------------------------------------------------------------------------------

    async def ask(self, query: Query) -> bytes:
        """Return the JSON body of the answer to a query. Raises QueryRejected and NoAnswer."""
        request = self._rpc.request(
            QUERIES, query.routing_key, query.encode(), expiration=_QUERY_EXPIRATION_SECONDS, persistent=False
        )
        return await self._answer(request, is_repeatable=True)

    async def command(self, command: Command) -> bytes:
        """Return the JSON body of the answer to a command. Raises TaskRejected and NoAnswer."""
        request = self._rpc.request(TASKS, command.routing_key, command.encode(), message_id=uuid7())
        return await self._answer(request, is_repeatable=False)

    async def _answer(self, request: Outgoing, *, is_repeatable: bool) -> bytes:
        try:
            return await self._rpc.call(request, timeout_seconds=self._answer_timeout, is_repeatable=is_repeatable)
        except RequestTimeout as error:
            raise await self.no_answer(request.exchange, confirmed=error.is_confirmed) from error

    async def no_answer(self, exchange: str, *, confirmed: bool, task: str | None = None) -> NoAnswer:
        """Return why a request has no answer, and where the submitted task is, if it was a submission."""
        where, within = self._link.where, f"within {self._answer_timeout:g} s"
        if task is None:
            then = "" if confirmed else _LATER.get(exchange, "")
        elif confirmed:
            then = f". Task {task} is in RabbitMQ and will be done"
        else:
            then = f", and has not confirmed task {task}: submit it again with the same ID"
        if self._link.blocked:
            later = " when it accepts messages again" if task and confirmed else ""
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
        """Return whether a coordinator consumes the queue of that exchange."""
        with suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(_CONSUMER_CHECK_SECONDS):
                return await self._link.has_consumers(_CONSUMED[exchange])
        return False

    # -- answers ---------------------------------------------------------------------------------------------------

    def _on_answer(self, delivery: Delivery) -> None:
        if self._rpc.take(delivery):
            return
        key, kind, body = delivery.properties.correlation_id or "", delivery.properties.type, delivery.body
        if (handle := self._tasks.get(key) or self._others.get(key)) is None:
            return
        try:
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
        except DecodeError as error:
            _log.warning("ignored an answer of type %s that cannot be read: %s", kind, error)

    def _on_end(self, handle: Submitted, view: TaskView) -> None:
        """Update all handles of a task that is over. The coordinator reports it once, under the last correlation id."""
        handle.update(view)
        if first := self._tasks.get(view.id):
            first.update(view)
        for other in list(self._others.values()):
            if other.id == view.id and other.unanswered is None:
                other.update(view)

    def _handles(self) -> list[Submitted]:
        return [*self._tasks.values(), *self._others.values()]

    # -- reconnects ------------------------------------------------------------------------------------------------

    def _on_state(self, connected: bool) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None
        if connected:
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        self._rpc.send_again()
        for handle in self._handles():
            if (submission := handle.submission) is not None:
                await self._link.room()
                handle.sending_again()
                self._publish(handle, submission)

    def _follow(self, handle: Submitted) -> None:
        """Query a task until it is over: its submission is rejected after a reconnect, as the task was changed."""
        following = asyncio.create_task(self._until_over(handle))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _until_over(self, handle: Submitted) -> None:
        while not handle.is_over:
            try:
                answer = await self.ask(TaskQuery(id=handle.id))
                handle.update(decode(TaskView, answer, limit=len(answer)))
            except NoAnswer as error:
                _log.warning("task %s: %s; asking for its status again", handle.id, error)
            await asyncio.sleep(_FOLLOW_INTERVAL_SECONDS)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
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


def _on_published(handle: Submitted, _: Outgoing, error: BrokerError | None) -> None:
    if error is None:
        handle.is_confirmed = True
    else:
        handle.fail(error)


def _reasons(body: bytes) -> list[Problem]:
    return [Problem(wrong.path, wrong.message) for wrong in decode(Rejection, body).errors]
