"""The attempts that an instance holds: waiting for a slot, running, or reported and not confirmed."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from broker.amqp.envelope import Delivery
from broker.best_effort import best_effort
from broker.bounded_set import BoundedSet
from broker.errors import DecodeError
from broker.fault_injection import crash_point
from broker.ids import assignment_id
from broker.protocol.assignments import Assignment, PersonAnswer, Stop
from broker.protocol.portable_text import on_one_line
from broker.protocol.primitives import MAX_ASSIGNMENT_BYTES, decode
from broker.protocol.worker_reports import Price, RunningTask
from broker.telemetry.counters import Runs
from workers.execution.attempt import CANCELLED, AttemptOutcome, RunningAttempt, failed
from workers.execution.reporter import Reporter
from workers.execution.suspensions import Slots
from workers.models.protocols import LLM
from workers.tools.toolbox import ToolServices

if TYPE_CHECKING:
    from workers.telemetry.tracing import WorkerTracing

MAX_FINISHED = 10_000
"""Finished attempts that are remembered, to recognise an assignment that is delivered again."""

STALE_CHECK_SECONDS = 0.5
"""The coordinator has this time to stop an attempt that was delivered before and may be out of date."""

LEFT_ASKING = failed("worker_stopped", "the worker left before a person had answered")

Key = tuple[str, int]
"""The id of the task, and the number of the attempt."""

_log = logging.getLogger(__name__)


class Executor:
    """Executes assignments: claim, acknowledge, call the LLM, report.

    At most `slots` attempts run at a time; further assignments wait, unacknowledged. An attempt that waits for a
    person or for another task holds no slot. `timeout`, in seconds, is for attempts of tasks that set no timeout.
    `on_change` is called when an attempt is over and when its result is confirmed. `runs` counts finished attempts.
    At `price`, the cost of attempts is computed whose LLM does not know it.
    """

    def __init__(
        self,
        llm: LLM,
        reporter: Reporter,
        services: ToolServices,
        *,
        slots: int,
        instructions: str | None,
        timeout: float | None,
        on_change: Callable[[], None],
        runs: Runs | None,
        tracing: "WorkerTracing | None" = None,
        price: Price | None = None,
    ) -> None:
        self._llm = llm
        self._reporter = reporter
        self._services = services
        self._slots = Slots(slots, self._on_free_slot)
        self._instructions = instructions
        self._timeout = timeout
        self._on_change = on_change
        self._runs = runs
        self._tracing = tracing
        self._price = price
        self._closed = False
        self._is_paused = False
        self._waiting: dict[Key, RunningAttempt] = {}  # not claimed: they wait for a slot
        self._claimed: dict[Key, RunningAttempt] = {}  # claimed, until RabbitMQ has confirmed the result
        self._finished: BoundedSet[Key] = BoundedSet(limit=MAX_FINISHED)

    @property
    def held_tasks(self) -> list[RunningTask]:
        """The claimed attempts without a confirmed result, then the attempts that wait for a slot."""
        return [RunningTask(task_id=task_id, attempt=attempt) for task_id, attempt in (*self._claimed, *self._waiting)]

    @property
    def empty(self) -> bool:
        """Whether no attempt is claimed."""
        return not self._claimed

    @property
    def running(self) -> int:
        """The number of claimed attempts that are not over."""
        return sum(not attempt.is_over for attempt in self._claimed.values())

    def take(self, delivery: Delivery) -> None:
        """Take an assignment. An assignment that cannot be decoded is rejected; a repeated one is not done twice."""
        try:
            assignment = decode(Assignment, delivery.body, limit=MAX_ASSIGNMENT_BYTES)
        except DecodeError as error:
            _log.warning("rejected an assignment that cannot be decoded: %s", error)
            delivery.reject()
            return
        key = (assignment.task_id, assignment.attempt)
        if key in self._finished:
            delivery.ack()
        elif known := self._waiting.get(key) or self._claimed.get(key):
            known.add_delivery(delivery)
        elif self._closed or self._is_paused:
            delivery.requeue()
        else:
            attempt = RunningAttempt(
                assignment,
                delivery,
                slots=self._slots,
                reporter=self._reporter,
                on_over=self._on_over,
                on_asks=self._on_asks,
                price=self._price,
            )
            if self._slots.take():
                attempt.suspensions.begin()
                self._claim(attempt)
            else:
                self._waiting[key] = attempt

    def stop(self, order: Stop) -> None:
        """Cancel an attempt, running or waiting. An attempt that is over or unknown is ignored."""
        key = (order.task_id, order.attempt)
        if waiting := self._waiting.pop(key, None):
            waiting.give_up(CANCELLED)
            self._claim(waiting)
        elif attempt := self._claimed.get(key):
            attempt.give_up(CANCELLED)

    def answered(self, order: PersonAnswer) -> None:
        """Pass the answer of a person to the attempt that asks."""
        if attempt := self._claimed.get((order.task_id, order.attempt)):
            attempt.suspensions.answered(order.question, order.answer)

    def ask_again(self) -> None:
        """Report the open questions again, after a reconnect."""
        for attempt in self._claimed.values():
            attempt.suspensions.ask_again()

    def close(self) -> None:
        """Start no more attempts: waiting and arriving assignments are returned to RabbitMQ.

        An attempt that asks a person, now or later, is given up: the answer can take long, and the question stays
        open without this worker.
        """
        self._closed = True
        for attempt in list(self._claimed.values()):
            if attempt.suspensions.asks:
                attempt.give_up(LEFT_ASKING)
        self.return_waiting()

    def limit(self, most: int | None) -> None:
        """Begin new attempts only while fewer than `most` run; with 0, arriving assignments are returned to RabbitMQ.

        None: as many as there are slots. Running attempts go on.
        """
        self._is_paused = most == 0
        self._slots.limit(most)

    def return_waiting(self) -> None:
        """Return the assignments that wait for a slot to RabbitMQ, for another instance."""
        for attempt in self._waiting.values():
            attempt.give_back()
        self._waiting.clear()

    def give_up_all(self, ending: AttemptOutcome) -> None:
        """Cancel every call, and report `ending` as the outcome of the attempts."""
        for attempt in list(self._claimed.values()):
            attempt.give_up(ending)

    async def abandon(self) -> None:
        """Cancel every call, without a report."""
        await asyncio.gather(*(attempt.abandon() for attempt in self._claimed.values()))

    def remember(self, key: Key) -> None:
        """Note that an attempt has its result: a repeated assignment of it is not done again."""
        self._finished.add(key)

    def _claim(self, attempt: RunningAttempt) -> None:
        self._claimed[attempt.key] = attempt
        self._reporter.claim(*attempt.key, then=partial(self._start, attempt))

    def _start(self, attempt: RunningAttempt) -> None:
        crash_point("claim-confirmed")
        attempt.acknowledge()
        if attempt.was_delivered_before:  # another instance may have done it: then a stop follows the claim
            asyncio.get_running_loop().call_later(STALE_CHECK_SECONDS, self._call, attempt)
        else:
            self._call(attempt)

    def _call(self, attempt: RunningAttempt) -> None:
        if attempt.is_over:
            return
        _log.info("task started", extra=attempt.names)
        attempt.start(
            self._llm, self._services, instructions=self._instructions, timeout=self._timeout, tracing=self._tracing
        )

    def _on_over(self, attempt: RunningAttempt, ending: AttemptOutcome) -> None:
        ending, body = attempt.result(ending, instance=self._reporter.instance)
        with best_effort("the record of an attempt"):
            self._record(attempt, ending)
        trace = None if attempt.span is None else attempt.span.traceparent
        about = assignment_id(*attempt.key)
        self._reporter.result(about, body, then=partial(self._on_confirmed, attempt.key), trace=trace)
        self._on_change()

    def _record(self, attempt: RunningAttempt, ending: AttemptOutcome) -> None:
        """Log, count and trace the outcome."""
        failure = ending.failure
        why = "" if failure is None else f": {on_one_line(f'{failure.type}: {failure.message}')}"
        _log.info("task %s%s", ending.outcome, why, extra=attempt.names)
        if self._runs is not None:
            self._runs.add(ending.outcome, attempt.duration, ending.usage)
        if attempt.span is not None:
            attempt.span.end(ending.outcome, failure, ending.usage)

    def _on_free_slot(self) -> None:
        if self._waiting and self._slots.take():
            attempt = self._waiting.pop(next(iter(self._waiting)))
            attempt.suspensions.begin()
            self._claim(attempt)

    def _on_asks(self, attempt: RunningAttempt) -> None:
        if self._closed:
            attempt.give_up(LEFT_ASKING)

    def _on_confirmed(self, key: Key) -> None:
        del self._claimed[key]
        self.remember(key)
        self._on_change()
