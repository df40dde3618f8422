"""The attempts that an instance holds: which wait for a slot, which run, which are reported but not confirmed."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from broker.amqp.envelope import Delivery
from broker.best_effort import best_effort
from broker.errors import DecodeError
from broker.fault_injection import crash_point
from broker.ids import assignment_id
from broker.protocol.assignments import Assignment, PersonAnswer, Stop
from broker.protocol.portable_text import on_one_line
from broker.protocol.primitives import MAX_ASSIGNMENT_BYTES, decode
from broker.protocol.worker_reports import RunningTask
from broker.telemetry.counters import Runs
from workers.execution.attempt import CALLED_OFF, AttemptOutcome, RunningAttempt, failed
from workers.execution.reporter import Reporter
from workers.execution.suspensions import Slots
from workers.models.base import LLM
from workers.tools.toolbox import ToolServices

if TYPE_CHECKING:
    from workers.telemetry.tracing import WorkerTracing

REMEMBERED = 10_000
"""Finished attempts that are remembered, to know an assignment that comes again."""

STOP_WITHIN = 0.5
"""Seconds that the coordinator gets to stop an attempt that was delivered before, and may be out of date."""

LEFT_ASKING = failed("worker_stopped", "the worker left before a person had answered")

Key = tuple[str, int]
"""Task id and attempt."""

_log = logging.getLogger(__name__)


class Executor:
    """Takes assignments and sees each through: claim, acknowledge, call the LLM, report.

    At most `slots` attempts work at any time; further assignments wait, unacknowledged. An attempt that waits for a
    person or for another task does not count meanwhile.
    `timeout` is for attempts of tasks that have none, in seconds. `on_change` is called when an attempt is over and
    when its result is confirmed. Attempts that are over are counted in `runs`, where that is wanted.
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
        self._closed = False
        self._waiting: dict[Key, RunningAttempt] = {}  # for a slot; not claimed
        self._in_hand: dict[Key, RunningAttempt] = {}  # claimed, until RabbitMQ has the result
        self._finished: dict[Key, None] = {}  # the last ones, oldest first

    @property
    def in_hand(self) -> list[RunningTask]:
        """What was claimed and whose result RabbitMQ does not have yet, and what waits for a slot."""
        return [RunningTask(task_id=task_id, attempt=attempt) for task_id, attempt in (*self._in_hand, *self._waiting)]

    @property
    def empty(self) -> bool:
        """Whether nothing is in hand."""
        return not self._in_hand

    @property
    def running(self) -> int:
        """How many attempts were claimed and are not over."""
        return sum(not attempt.is_over for attempt in self._in_hand.values())

    def take(self, delivery: Delivery) -> None:
        """An assignment has arrived. One that cannot be read is rejected, one that came before is not done twice."""
        try:
            assignment = decode(Assignment, delivery.body, limit=MAX_ASSIGNMENT_BYTES)
        except DecodeError as error:
            _log.warning("rejected an assignment that cannot be read: %s", error)
            delivery.reject()
            return
        key = (assignment.task_id, assignment.attempt)
        if key in self._finished:
            delivery.ack()
        elif known := self._waiting.get(key) or self._in_hand.get(key):
            known.came_again(delivery)
        elif self._closed:
            delivery.requeue()
        else:
            attempt = RunningAttempt(
                assignment,
                delivery,
                slots=self._slots,
                reporter=self._reporter,
                on_over=self._on_over,
                on_asks=self._on_asks,
            )
            if self._slots.take():
                attempt.suspensions.begin()
                self._claim(attempt)
            else:
                self._waiting[key] = attempt

    def stop(self, order: Stop) -> None:
        """Give an attempt up, whether it runs or waits. One that is not held, or over, is none of our business."""
        key = (order.task_id, order.attempt)
        if waiting := self._waiting.pop(key, None):
            waiting.give_up(CALLED_OFF)
            self._claim(waiting)
        elif attempt := self._in_hand.get(key):
            attempt.give_up(CALLED_OFF)

    def answered(self, order: PersonAnswer) -> None:
        """A person has answered what an attempt asks."""
        if attempt := self._in_hand.get((order.task_id, order.attempt)):
            attempt.suspensions.answered(order.question, order.answer)

    def ask_again(self) -> None:
        """After a reconnect: tell once more what people are asked."""
        for attempt in self._in_hand.values():
            attempt.suspensions.ask_again()

    def close(self) -> None:
        """Take nothing new: what waits is given back, and so is what still arrives.

        What asks a person, now or later, is given up: people take their time, and the question stays without us.
        """
        self._closed = True
        for attempt in list(self._in_hand.values()):
            if attempt.suspensions.asks:
                attempt.give_up(LEFT_ASKING)
        for attempt in self._waiting.values():
            attempt.give_back()
        self._waiting.clear()

    def give_up_all(self, ending: AttemptOutcome) -> None:
        """Cancel every call; the attempts end as `ending`, and are reported so."""
        for attempt in list(self._in_hand.values()):
            attempt.give_up(ending)

    async def abandon(self) -> None:
        """Cancel every call, and report nothing any more."""
        await asyncio.gather(*(attempt.abandon() for attempt in self._in_hand.values()))

    def remember(self, key: Key) -> None:
        """This attempt has its result: an assignment of it that comes again is not done again."""
        self._finished[key] = None
        if len(self._finished) > REMEMBERED:
            del self._finished[next(iter(self._finished))]

    def _claim(self, attempt: RunningAttempt) -> None:
        self._in_hand[attempt.key] = attempt
        self._reporter.claim(*attempt.key, then=partial(self._start, attempt))

    def _start(self, attempt: RunningAttempt) -> None:
        crash_point("claim-confirmed")
        attempt.acknowledge()
        if attempt.was_delivered_before:  # meanwhile somebody else may have done it: then a stop follows the claim
            asyncio.get_running_loop().call_later(STOP_WITHIN, self._call, attempt)
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
        with best_effort("keeping a record of an attempt"):
            self._record(attempt, ending)
        trace = None if attempt.span is None else attempt.span.traceparent
        about = assignment_id(*attempt.key)
        self._reporter.result(about, body, then=partial(self._on_confirmed, attempt.key), trace=trace)
        self._on_change()

    def _record(self, attempt: RunningAttempt, ending: AttemptOutcome) -> None:
        """Log, count and trace how it ended."""
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
        del self._in_hand[key]
        self.remember(key)
        self._on_change()
