"""Requests of the tools to the coordinator: delegated tasks, queries, notes.

Replies come to the control queue of the instance, which lives as long as its connection. So all pending requests are
published again after a reconnect; the coordinator may receive each of them twice.
"""

from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import AccessRefused
from broker.messaging.rpc import PendingRequest, RpcClient
from broker.protocol.primitives import WireModel, decode
from broker.protocol.queries import LLMsQuery
from broker.protocol.status import Status
from broker.protocol.task_requests import ReadNote, Retry, ShareNote, Submission
from broker.protocol.topology import QUERIES, REQUESTS, TASKS
from broker.protocol.views import LLMList, LLMView, NoteList, NoteView, TaskView
from broker.telemetry.traceparent import in_trace

COORDINATOR = "coordinator"  # who has ended a task, in its history, when its parent was over

_PREFIX = "errand-"  # of correlation ids

V = TypeVar("V", bound=BaseModel)


class CoordinatorClient:
    """Sends requests of the tools and awaits their replies. The worker consumes the control queue: see `take`."""

    def __init__(self, link: RobustConnection, reply_to: str, *, as_llm: str | None = None) -> None:
        """`as_llm` is the LLM's name where its RabbitMQ user has only the rights of an LLM."""
        self._rpc = RpcClient(link, reply_to, prefix=_PREFIX)
        self._as_llm = as_llm
        self._may_query = True

    async def llms(self) -> list[LLMView] | None:
        """Return every LLM that has ever said hello; None for a user that may not query. Raises BrokerError."""
        if not self._may_query:  # another try would cost the link its channel
            return None
        try:
            found: list[LLMView] = []
            after: str | None = None
            while True:
                query = LLMsQuery(after=after)
                page = await self._only_reply(LLMList, self._rpc.request(QUERIES, query.routing_key, query.encode()))
                found += page.llms
                if (after := page.next) is None:
                    return found
        except AccessRefused:
            self._may_query = False
            return None

    async def share(self, note: ShareNote) -> None:
        """Put a note on a board. Raises TaskRejected and BrokerError."""
        await self._only_reply(NoteView, self._to_coordinator(note.routing_key, note))

    async def read(self, note: ReadNote) -> list[NoteView]:
        """Return the note of that name. Raises TaskRejected and BrokerError."""
        return (await self._only_reply(NoteList, self._to_coordinator(note.routing_key, note))).notes

    async def delegate(self, task: Submission, *, trace: str | None = None) -> TaskView:
        """Submit a task that has an id, in that trace, and return it when it is over.

        A known task is not submitted again, only waited for; one that had failed before, or had ended with an earlier
        end of its parent, is retried. Raises TaskRejected and BrokerError.
        """
        submission = replace(self._to_coordinator(task.routing_key, task), headers=in_trace(trace))
        with self._rpc.open(submission) as request:
            view = await _reply(TaskView, request)
            if request.was_sent_again or not _deserves_another_try(view):
                return await _end(request, view)
        assert task.id is not None
        retry = Retry(id=task.id)
        with self._rpc.open(self._to_coordinator(retry.routing_key, retry)) as request:
            # A reconnect publishes the submission, not the retry: it may be received twice.
            request.message = replace(submission, correlation_id=request.message.correlation_id)
            return await _end(request, await _reply(TaskView, request))

    def take(self, delivery: Delivery) -> bool:
        """Take a reply to a request from here. Returns False for another delivery of the control queue."""
        return self._rpc.take(delivery)

    def send_again(self) -> None:
        """Publish all pending requests again, after a reconnect."""
        self._rpc.send_again()

    def _to_coordinator(self, key: str, body: WireModel) -> Outgoing:
        if self._as_llm is None:
            return self._rpc.request(TASKS, key, body.encode())
        return self._rpc.request(REQUESTS, f"{self._as_llm}.{key}", body.encode())

    async def _only_reply(self, kind: type[V], message: Outgoing) -> V:
        with self._rpc.open(message) as request:
            return await _reply(kind, request)


async def _reply(kind: type[V], request: PendingRequest) -> V:
    body = await request.reply()
    return decode(kind, body, limit=len(body))


async def _end(request: PendingRequest, view: TaskView) -> TaskView:
    while not view.status.is_final:
        view = await _reply(TaskView, request)
    return view


def _deserves_another_try(view: TaskView) -> bool:
    if view.status is Status.CANCELLED:
        return bool(view.history) and view.history[-1].by == COORDINATOR
    return view.status is Status.FAILED
