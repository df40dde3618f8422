"""What an instance asks of the coordinator while its LLM works: tasks for others, queries, notes.

Answers come to the instance's control queue, which goes with its connection. So whatever is unanswered is published
once more after a reconnect; all that is asked here may be asked twice.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import AccessRefused, BrokerError, Problem, QueryRejected, TaskRejected
from broker.protocol.primitives import WireModel, decode
from broker.protocol.queries import LLMsQuery
from broker.protocol.status import Status
from broker.protocol.task_requests import ReadNote, Retry, ShareNote, Submission
from broker.protocol.topology import QUERIES, REQUESTS, TASKS
from broker.protocol.traceparent import in_trace
from broker.protocol.views import LLMList, LLMView, NoteList, NoteView, Rejection, TaskView

COORDINATOR = "coordinator"  # who has ended a task, in its history, when its parent was over

_ERRAND = "errand-"  # how its correlation ids begin

V = TypeVar("V", bound=BaseModel)


class _Reply(NamedTuple):
    type: str
    body: bytes


class _PendingRequest:
    """A request under way. It may be answered several times."""

    def __init__(self, message: Outgoing) -> None:
        self.message = message
        self.sent_again = False
        self._answers: asyncio.Queue[_Reply | Exception] = asyncio.Queue()

    def take(self, answer: _Reply | Exception) -> None:
        self._answers.put_nowait(answer)

    def on_published(self, _: Outgoing, error: BrokerError | None) -> None:
        if error is not None:
            self.take(error)

    async def answer(self, kind: type[V]) -> V:
        """The next answer. Raises TaskRejected, QueryRejected, or why the request could not be published."""
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        if answer.type.endswith(".rejected"):
            errors = decode(Rejection, answer.body, limit=len(answer.body)).errors
            rejected = QueryRejected if answer.type.startswith("query.") else TaskRejected
            raise rejected([Problem(wrong.path, wrong.message) for wrong in errors])
        return decode(kind, answer.body, limit=len(answer.body))


class CoordinatorClient:
    """Requests that await answers. Whoever consumes the control queue passes on to `take` what comes there."""

    def __init__(self, link: RobustConnection, reply_to: str, *, as_llm: str | None = None) -> None:
        """`as_llm` is the LLM's name where its RabbitMQ user has only the rights of an LLM."""
        self._link = link
        self._reply_to = reply_to
        self._as_llm = as_llm
        self._waiting: dict[str, _PendingRequest] = {}
        self._may_query = True
        self._numbers = itertools.count(1)

    async def llms(self) -> list[LLMView] | None:
        """Every LLM that has ever said hello; None for a user that may not ask. Raises BrokerError."""
        if not self._may_query:  # to try it again would cost the link its channel
            return None
        try:
            found: list[LLMView] = []
            after: str | None = None
            while True:
                query = LLMsQuery(after=after)
                with self._under_way(self._request(QUERIES, query.routing_key, query)) as errand:
                    page = await errand.answer(LLMList)
                found += page.llms
                if (after := page.next) is None:
                    return found
        except AccessRefused:
            self._may_query = False
            return None

    async def share(self, note: ShareNote) -> None:
        """Put a note on a board. Raises TaskRejected and BrokerError."""
        with self._under_way(self._to_coordinator(note.routing_key, note)) as errand:
            await errand.answer(NoteView)

    async def read(self, note: ReadNote) -> list[NoteView]:
        """The note of that name. Raises TaskRejected and BrokerError."""
        with self._under_way(self._to_coordinator(note.routing_key, note)) as errand:
            return (await errand.answer(NoteList)).notes

    async def delegate(self, task: Submission, *, trace: str | None = None) -> TaskView:
        """Submit a task that has its id, in that trace, and wait for its end. One that is known already is waited for.

        One that had failed before, or had ended with an earlier end of its parent, is tried again. Raises
        TaskRejected and BrokerError.
        """
        submission = replace(self._to_coordinator(task.routing_key, task), headers=in_trace(trace))
        with self._under_way(submission) as errand:
            view = await errand.answer(TaskView)
            if errand.sent_again or not _deserves_another_try(view):
                return await _end(errand, view)
        assert task.id is not None
        retry = Retry(id=task.id)
        with self._under_way(self._to_coordinator(retry.routing_key, retry)) as errand:
            errand.message = replace(submission, correlation_id=errand.message.correlation_id)  # after a reconnect
            return await _end(errand, await errand.answer(TaskView))

    def take(self, delivery: Delivery) -> None:
        """An answer has come, see `is_answer`. One that nobody waits for any more is dropped."""
        properties = delivery.properties
        if errand := self._waiting.get(properties.correlation_id or ""):
            errand.take(_Reply(properties.type or "", delivery.body))

    @staticmethod
    def is_answer(delivery: Delivery) -> bool:
        """Whether what has come to the control queue answers something that was asked here."""
        return (delivery.properties.correlation_id or "").startswith(_ERRAND)

    def send_again(self) -> None:
        """After a reconnect: publish what is under way."""
        for errand in self._waiting.values():
            errand.sent_again = True
            self._publish(errand)

    def _to_coordinator(self, key: str, body: WireModel) -> Outgoing:
        if self._as_llm is None:
            return self._request(TASKS, key, body)
        return self._request(REQUESTS, f"{self._as_llm}.{key}", body)

    def _request(self, exchange: str, routing_key: str, body: WireModel) -> Outgoing:
        return Outgoing(
            exchange,
            routing_key,
            body.encode(),
            correlation_id=f"{_ERRAND}{next(self._numbers)}",
            reply_to=self._reply_to,
        )

    @contextmanager
    def _under_way(self, message: Outgoing) -> Iterator[_PendingRequest]:
        assert message.correlation_id is not None
        errand = self._waiting[message.correlation_id] = _PendingRequest(message)
        self._publish(errand)
        try:
            yield errand
        finally:
            del self._waiting[message.correlation_id]

    def _publish(self, errand: _PendingRequest) -> None:
        self._link.send(errand.message, errand.on_published)


async def _end(errand: _PendingRequest, view: TaskView) -> TaskView:
    while not view.status.is_final:
        view = await errand.answer(TaskView)
    return view


def _deserves_another_try(view: TaskView) -> bool:
    if view.status is Status.CANCELLED:
        return bool(view.history) and view.history[-1].by == COORDINATOR
    return view.status is Status.FAILED
