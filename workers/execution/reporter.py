"""The reports of an instance on `fluffle.status`: presence, claims, waits, progress and results."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.backoff import Backoff
from broker.errors import BrokerError, ConnectionClosed, MessageTooLarge
from broker.fault_injection import crash_point, crash_point_soon
from broker.futures import resolve
from broker.ids import assignment_id
from broker.protocol.chat import Message, MessageProgress
from broker.protocol.primitives import WireModel, decode
from broker.protocol.topology import STATUS, control_address
from broker.protocol.worker_reports import (
    Claim,
    Failure,
    Goodbye,
    Presence,
    Progress,
    Question,
    Result,
    ResumeReport,
    Usage,
    WaitReport,
)
from broker.telemetry.traceparent import in_trace
from workers.execution.spool import Spool

RETRY = Backoff(initial=0.2, maximum=5.0)
"""The pauses between attempts to publish what RabbitMQ refused."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Report:
    """A message that is published until RabbitMQ confirms it. A result has its ticket of the spool."""

    what: str
    about: str  # see assignment_id
    body: bytes
    then: Callable[[], None]
    ticket: int | None = None
    trace: str | None = None
    failures: int = 0


class Reporter:
    """Publishes the reports of one instance."""

    def __init__(self, link: RobustConnection, spool: Spool, *, name: str, instance: str) -> None:
        self._link = link
        self._spool = spool
        self._name = name
        self._control = control_address(name, instance)
        self.instance = instance

    @property
    def unconfirmed_results(self) -> int:
        """The number of results that RabbitMQ has not confirmed."""
        return len(self._spool)

    def presence(self, what: str, presence: Presence) -> asyncio.Future[None]:
        """Publish a `hello` or `beat`, once, with the control queue as `reply_to`. The future may be ignored."""
        return self._say_once(what, presence, reply_to=self._control)

    def progress(self, task_id: str, attempt: int, text: str) -> asyncio.Future[None]:
        """Publish a piece of the answer to a task, once. The future may be ignored."""
        message = Progress(task_id=task_id, attempt=attempt, instance=self.instance, text=text)
        return self._say_once("progress", message, persistent=False)

    def usage(self, task_id: str, attempt: int, usage: Usage) -> asyncio.Future[None]:
        """Publish what an attempt has used so far, once. The future may be ignored."""
        message = Progress(task_id=task_id, attempt=attempt, instance=self.instance, usage=usage)
        return self._say_once("progress", message, persistent=False)

    def message_progress(self, question: Message, text: str) -> asyncio.Future[None]:
        """Publish a piece of the answer to a message, once. The future may be ignored."""
        message = MessageProgress(
            message_id=question.id, conversation_id=question.conversation_id, instance=self.instance, text=text
        )
        return self._say_once("progress", message, persistent=False)

    async def goodbye(self) -> None:
        """Report that this instance leaves, without tasks. Raises BrokerError when RabbitMQ does not confirm it."""
        await self._publish("goodbye", Goodbye(name=self._name, instance=self.instance).encode())

    def claim(self, task_id: str, attempt: int, then: Callable[[], None]) -> None:
        """Claim an attempt; call `then` when RabbitMQ has confirmed the claim."""
        claim = Claim(task_id=task_id, attempt=attempt, instance=self.instance, at=datetime.now(UTC))
        self._send(_Report("claim", assignment_id(task_id, attempt), claim.encode(), then))
        crash_point_soon("claim-published")

    def wait(self, task_id: str, attempt: int, question: Question | None) -> asyncio.Future[None]:
        """Report that an attempt waits; the future ends with the confirm."""
        waits = WaitReport(task_id=task_id, attempt=attempt, instance=self.instance, question=question)
        return self._tell("wait", waits)

    def resume(self, task_id: str, attempt: int) -> asyncio.Future[None]:
        """Report that an attempt continues; the future ends with the confirm."""
        return self._tell("resume", ResumeReport(task_id=task_id, attempt=attempt, instance=self.instance))

    def result(self, about: str, body: bytes, then: Callable[[], None], trace: str | None = None) -> None:
        """Spool a Result, and publish it in its trace; call `then` when RabbitMQ has confirmed it.

        `body` is the Result as JSON, `about` its assignment_id.
        """
        ticket = self._spool.add(body)
        crash_point("result-spooled")
        self._send(_Report("result", about, body, then, ticket, trace))
        crash_point_soon("result-published")

    def spooled_results(self, then: Callable[[], None]) -> list[Result]:
        """Publish the results of the spool, and return them; call `then` for each confirm."""
        results = []
        for ticket, body in self._spool.waiting.items():
            result = decode(Result, body, limit=len(body))
            results.append(result)
            self._send(_Report("result", assignment_id(result.task_id, result.attempt), body, then, ticket))
        return results

    def _tell(self, what: str, message: WaitReport | ResumeReport) -> asyncio.Future[None]:
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        about = assignment_id(message.task_id, message.attempt)
        self._send(_Report(what, about, message.encode(), partial(resolve, confirmed, None)))
        return confirmed

    def _say_once(
        self, what: str, message: WireModel, *, persistent: bool = True, reply_to: str | None = None
    ) -> asyncio.Future[None]:
        sent = self._publish(what, message.encode(), persistent=persistent, reply_to=reply_to)
        sent.add_done_callback(asyncio.Future.exception)  # its failure is harmless
        return sent

    def _publish(
        self, what: str, body: bytes, *, persistent: bool = True, reply_to: str | None = None
    ) -> asyncio.Future[None]:
        return self._link.publish_soon(self._message(what, body, persistent=persistent, reply_to=reply_to))

    def _message(self, what: str, body: bytes, *, persistent: bool = True, reply_to: str | None = None) -> Outgoing:
        return Outgoing(STATUS, f"{self._name}.{what}", body, persistent=persistent, reply_to=reply_to)

    def _send(self, report: _Report) -> None:
        message = self._message(report.what, report.body)
        message.correlation_id = report.about
        if report.what == "claim":
            message.reply_to = self._control
        message.headers = in_trace(report.trace)
        self._link.send(message, partial(self._on_answer, report))

    def _on_answer(self, report: _Report, _: Outgoing, error: BrokerError | None) -> None:
        match error:
            case None:
                if report.ticket is not None:
                    crash_point("result-confirmed")
                    self._spool.confirmed(report.ticket)
                report.then()
            case ConnectionClosed():
                pass  # a result is in the spool; an unclaimed assignment goes to another instance
            case MessageTooLarge() if report.ticket is not None:
                self._spool.confirmed(report.ticket)
                self.result(report.about, _too_large(report.body, error), report.then)
            case _:
                _log.warning("RabbitMQ did not take a %s of %s: %s", report.what, self._name, error)
                report.failures += 1
                asyncio.get_running_loop().call_later(RETRY.pause(report.failures), self._send, report)


def _too_large(body: bytes, error: MessageTooLarge) -> bytes:
    failure = Failure(type="result_too_large", message=f"the result cannot be sent: {error}", retryable=False)
    result = decode(Result, body, limit=len(body))
    return result.model_copy(update={"outcome": "failed", "result": None, "error": failure}).encode()
