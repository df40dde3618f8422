"""One attempt of a task, from its assignment to its result."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from broker.amqp.envelope import Delivery
from broker.best_effort import best_effort
from broker.fault_injection import crash_point_soon
from broker.protocol.assignments import Assignment
from broker.protocol.portable_text import printed
from broker.protocol.primitives import problems
from broker.protocol.worker_reports import Failure, Price, Result, Usage
from broker.telemetry.traceparent import trace_of
from workers.execution.progress import ProgressStream, UsageStream
from workers.execution.reporter import Reporter
from workers.execution.suspensions import Slots, Suspensions
from workers.models.base import DISK_FULL, Answer, Job, ModelError, is_disk_full
from workers.models.output import as_json
from workers.models.pricing import with_cost
from workers.models.protocols import LLM
from workers.tools.toolbox import Toolbox, ToolServices

if TYPE_CHECKING:
    from workers.telemetry.tracing import AttemptSpan, WorkerTracing

CANCEL_TIMEOUT_SECONDS = 5.0
"""A cancelled call has this time to end. After that, its attempt is over in any case."""

_log = logging.getLogger(__name__)


class AttemptOutcome(NamedTuple):
    """How an attempt ended. A failed attempt has a failure; the usage can be known in every case.

    `model` is the model that answered, if that is not the one of the worker.
    """

    outcome: Literal["completed", "failed", "cancelled"]
    result: Any = None
    failure: Failure | None = None
    usage: Usage | None = None
    model: str | None = None


CANCELLED = AttemptOutcome("cancelled")


def failed(
    kind: str,
    message: str,
    *,
    retryable: bool = True,
    usage: Usage | None = None,
    retry_after: float | None = None,
    fault: Literal["task", "llm"] | None = None,
) -> AttemptOutcome:
    """Return the outcome of a failed attempt. `kind` is the type of the failure, a short name for programs.

    Impossible values of `retry_after` and `fault` are left out.
    """
    error = ModelError(printed(kind)[:200] or "error", printed(message), retryable=bool(retryable))
    failure = Failure(type=error.type, message=error.message, retryable=error.retryable)
    for name, value in {"retry_after": retry_after, "fault": fault}.items():
        with suppress(ValidationError):
            failure = Failure.model_validate(failure.model_dump() | {name: value})
    return AttemptOutcome("failed", failure=failure, usage=usage)


class RunningAttempt:
    """An attempt that a worker holds. `on_over` is called once, with the outcome; `on_asks` when it asks a person.

    The attempt ends whatever the LLM does: no error of the LLM prevents the report. With `price`, the cost of a usage
    without one is computed.
    """

    def __init__(
        self,
        assignment: Assignment,
        delivery: Delivery,
        *,
        slots: Slots,
        reporter: Reporter,
        on_over: Callable[["RunningAttempt", AttemptOutcome], None],
        on_asks: Callable[["RunningAttempt"], None],
        price: Price | None = None,
    ) -> None:
        self.key = (assignment.task_id, assignment.attempt)
        self.suspensions = Suspensions(self.key, slots, reporter, on_person=self._on_person)
        self._assignment = assignment
        self._deliveries = [delivery]
        self._acknowledged = False
        self._stream = ProgressStream(partial(reporter.progress, *self.key))
        self._usage = UsageStream(partial(reporter.usage, *self.key))
        self._price = price
        self._on_over = on_over
        self._on_asks = on_asks
        self._over = False
        self.span: AttemptSpan | None = None
        self._given_up: AttemptOutcome | None = None
        self._call: asyncio.Task[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = 0.0
        self._time_left = 0.0
        self._started_at: datetime | None = None
        self._clock = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the attempt has ended."""
        return self._over

    @property
    def was_delivered_before(self) -> bool:
        """Whether RabbitMQ delivered the assignment before, on a connection that is lost."""
        return self._deliveries[0].redelivered

    @property
    def names(self) -> dict[str, str | int]:
        """The fields that name the attempt in the log."""
        return {"task": self.key[0], "attempt": self.key[1]}

    @property
    def duration(self) -> float | None:
        """The seconds that the attempt has run, without its waits; None before it runs."""
        if self._started_at is None:
            return None
        return max(0.0, time.monotonic() - self._clock - self.suspensions.total)

    # -- the assignment --------------------------------------------------------------------------------------------

    def add_delivery(self, delivery: Delivery) -> None:
        """Take a second delivery of the same assignment, from RabbitMQ or from the coordinator."""
        if self._acknowledged:
            delivery.ack()
        else:
            self._deliveries.append(delivery)

    def acknowledge(self) -> None:
        """Acknowledge the assignment: the claim is confirmed."""
        self._acknowledged = True
        for delivery in self._deliveries:
            delivery.ack()

    def give_back(self) -> None:
        """Return the assignment to RabbitMQ, for another instance."""
        for delivery in self._deliveries:
            delivery.requeue()

    # -- the call --------------------------------------------------------------------------------------------------

    def start(
        self,
        llm: LLM,
        services: ToolServices,
        *,
        instructions: str | None,
        timeout: float | None,
        tracing: "WorkerTracing | None",
    ) -> None:
        """Call the LLM, unless the attempt was given up before. `timeout`, in seconds, is for tasks without one."""
        if self._given_up is not None:
            self._end(self._given_up)
            return
        try:
            self._begin(llm, services, self._job(instructions, timeout), tracing)
        except Exception as error:
            self._end(self._failure(error))

    def _begin(self, llm: LLM, services: ToolServices, job: Job, tracing: "WorkerTracing | None") -> None:
        loop = asyncio.get_running_loop()
        self._started_at, self._clock = datetime.now(UTC), time.monotonic()
        first = self._deliveries[0]
        if tracing is not None:
            with best_effort("the span of an attempt"):
                self.span = tracing.begin(self._assignment, first)
        context = None if self.span is None else self.span.context
        trace = trace_of(first.headers) if self.span is None else self.span.call_traceparent
        toolbox = Toolbox(services, self._assignment, self.suspensions, priority=first.properties.priority, trace=trace)
        self._call = loop.create_task(llm.run(job, self._stream.add, toolbox), context=context)
        self._call.add_done_callback(self._on_call_done)
        crash_point_soon("call-started")
        if job.timeout is not None:
            self._timeout = job.timeout
            self._timer = loop.call_later(job.timeout, self._on_late)

    def give_up(self, ending: AttemptOutcome) -> None:
        """Cancel the call, or never start it. The outcome is `ending`, unless the answer arrives first."""
        if self._given_up is None and not self._over:
            self._given_up = ending
            self.suspensions.give_up()
            if self._call is not None:
                self._call.cancel()
                self._stop_timer()
                self._timer = asyncio.get_running_loop().call_later(CANCEL_TIMEOUT_SECONDS, self._end, ending)

    async def abandon(self) -> None:
        """Cancel the call and wait for its end, without a report."""
        self._over = True
        self.suspensions.give_up()
        self._stop_timer()
        if self._call is not None and not self._call.done():
            self._call.cancel()
            await asyncio.wait([self._call], timeout=CANCEL_TIMEOUT_SECONDS)

    def result(self, ending: AttemptOutcome, *, instance: str) -> tuple[AttemptOutcome, bytes]:
        """Return the outcome, and the Result to report, as JSON. Never raises.

        An answer that is not JSON becomes a failure. Impossible usage is left out.
        """
        finished_at, duration = datetime.now(UTC), self.duration

        def encoded(ending: AttemptOutcome) -> tuple[AttemptOutcome, bytes]:
            result = Result(
                task_id=self.key[0],
                attempt=self.key[1],
                instance=instance,
                outcome=ending.outcome,
                result=ending.result,
                error=ending.failure,
                started_at=self._started_at,
                finished_at=finished_at,
                duration=duration,
                usage=ending.usage,
                model=ending.model,
            )
            return ending, result.encode()

        ending = self._with_usage(ending)
        with suppress(Exception):  # almost every answer is valid
            return encoded(ending)
        usage = ending.usage if isinstance(ending.usage, Usage) else None
        try:
            return encoded(ending._replace(result=as_json(ending.result), usage=usage, model=None))
        except ModelError as error:
            text = error.message
        except ValidationError as error:
            text = f"the answer is not JSON: {'; '.join(map(str, problems(error)))}"
        except Exception as error:
            _log.error("a result cannot be encoded", extra=self.names, exc_info=error)
            text, usage = f"the answer cannot be reported: {type(error).__name__}", None
        return encoded(failed("not_json", text, retryable=False, usage=usage))

    def _job(self, instructions: str | None, timeout: float | None) -> Job:
        it = self._assignment
        return Job(
            task_id=it.task_id,
            attempt=it.attempt,
            description=it.description,
            inputs=it.inputs,
            context=tuple(it.context),
            instructions=instructions,
            output_schema=it.output_schema,
            timeout=timeout if it.timeout is None else it.timeout,
            metadata=it.metadata,
            skills=tuple(it.skills),
            answers=tuple(it.answers),
            budget=it.budget,
            report_usage=self._on_usage,
        )

    def _on_usage(self, usage: Usage) -> None:
        if isinstance(usage, Usage) and not self._over:
            self._usage.add(self._priced(usage), is_sent=self._given_up is None)

    def _priced(self, usage: Usage) -> Usage:
        return with_cost(usage, self._price) or usage

    def _with_usage(self, ending: AttemptOutcome) -> AttemptOutcome:
        """Return the outcome with the usage that was reported last, unless it has one, and with its cost."""
        usage = self._usage.last if ending.usage is None else ending.usage
        if (usage is None and self._started_at is not None) or isinstance(usage, Usage):
            usage = with_cost(usage, self._price)
        return ending._replace(usage=usage)

    def _on_call_done(self, call: asyncio.Task[Answer]) -> None:
        try:
            ending = self._ending_of(call)
        except Exception as error:  # the LLM returned no Answer, or raised a malformed ModelError
            ending = self._failure(error)
        self._end(ending)

    def _ending_of(self, call: asyncio.Task[Answer]) -> AttemptOutcome:
        if call.cancelled():
            return self._given_up or failed("cancelled", "the call was cancelled from within")
        if error := call.exception():
            return self._given_up or self._failure(error)
        answer = call.result()
        return AttemptOutcome("completed", answer.result, usage=answer.usage, model=answer.model)

    def _failure(self, error: BaseException) -> AttemptOutcome:
        if isinstance(error, ModelError):
            return failed(
                error.type,
                error.message,
                retryable=error.retryable,
                usage=error.usage,
                retry_after=error.retry_after,
                fault=error.fault,
            )
        if is_disk_full(error):
            return failed(DISK_FULL, f"the worker cannot write: {printed(error)}")
        _log.error("the LLM raised an unexpected error", extra=self.names, exc_info=error)
        return failed(type(error).__name__, printed(error) or type(error).__name__)

    def _end(self, ending: AttemptOutcome) -> None:
        if not self._over:
            self._over = True
            self._stop_timer()
            self._stream.close()
            try:
                self._on_over(self, ending)
            finally:
                self.suspensions.close()

    def _on_late(self) -> None:
        self.give_up(failed("timeout", f"no answer within {self._timeout:g} s"))

    def _on_person(self, asks: bool) -> None:
        """Stop the timeout while a person is asked, and continue it after the answer."""
        if self._timer is not None and self._given_up is None:
            loop = asyncio.get_running_loop()
            if asks:
                self._time_left = self._timer.when() - loop.time()
                self._timer.cancel()
            else:
                self._timer = loop.call_later(self._time_left, self._on_late)
        if asks:
            self._on_asks(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
