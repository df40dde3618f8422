"""Answers against the output schemas of their tasks, whoever the worker is.

Most are checked in the batch. One that may take long is set aside: helper processes check it, and its delivery comes
into a later batch, with a verdict. It is acknowledged only then, so that a crash meanwhile means that it comes again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import structlog

from broker.amqp.envelope import Delivery
from broker.protocol.worker_reports import Failure, Result
from broker.untrusted.output_check import OUTPUT_SCHEMA, check_apart, quick_check
from broker.untrusted.process_pool import ProcessPool
from coordinator.core.events import BeingChecked, Event, InstanceLeft, Reported
from coordinator.core.tasks.task import Task

AGAIN = 0.5  # seconds before a check that could not even begin is tried again
MOST_BEHIND_A_SLOW_ONE = 20  # answers of an LLM that wait, when its last one could not be checked

_log = structlog.get_logger("coordinator")


class UncheckedAnswer(NamedTuple):
    """An answer that is set aside, and the schema to hold it against."""

    delivery: Delivery
    about: BeingChecked
    answer: Any
    schema: dict[str, Any]


class DeferredGoodbye(NamedTuple):
    """What is set aside because it comes after answers of that LLM."""

    delivery: Delivery
    llm: str


SetAside = UncheckedAnswer | DeferredGoodbye


class OutputValidator:
    """`in_batch` and `being_checked` are called by the thread that makes batches, everything else by the event loop.

    `on_ready` is called with a delivery that is to come into the next batch.
    """

    def __init__(self, on_ready: Callable[[Delivery], None] = lambda delivery: None) -> None:
        self._on_ready = on_ready
        self._helpers = ProcessPool()
        self._open: dict[Delivery, BeingChecked] = {}  # what was set aside and is not done
        self._verdicts: dict[Delivery, Failure | None] = {}
        self._goodbyes: list[DeferredGoodbye] = []
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # one check at a time for each LLM
        self._slow: set[str] = set()  # LLMs whose last answer could not be checked
        self._checks: dict[asyncio.Task[None], Delivery] = {}

    def in_batch(
        self, events: Sequence[Event], origins: Sequence[Delivery], tasks: Mapping[str, Task]
    ) -> tuple[list[Event], list[Delivery], list[SetAside]]:
        """The events with answers checked, the delivery of each, and what is to be set aside.

        An answer that does not satisfy the schema of its task is a failed attempt. An LLM's goodbye comes after its
        answers: else they would be taken for lost.
        """
        checked: list[tuple[Event, Delivery]] = []
        aside: list[SetAside] = []
        for event, delivery in zip(events, origins, strict=True):
            match event:
                case Reported(llm, result) if (schema := _schema_for(llm, result, tasks)) is not None:
                    failure, is_known = self._verdict(delivery, result.result, schema)
                    if not is_known:
                        about = BeingChecked(llm, result.task_id, result.attempt, result.instance)
                        aside.append(UncheckedAnswer(delivery, about, result.result, schema))
                        continue
                    if failure is not None:
                        _log.warning("an answer is refused", task=result.task_id, llm=llm, error=failure.message)
                        event = replace(event, result=_failed(result, failure))
                case InstanceLeft(goodbye) if any(it.llm == goodbye.name for it in self.being_checked(aside)):
                    aside.append(DeferredGoodbye(delivery, goodbye.name))
                    continue
            checked.append((event, delivery))
        return [event for event, _ in checked], [delivery for _, delivery in checked], aside

    def being_checked(self, aside: Sequence[SetAside] = ()) -> list[BeingChecked]:
        """The attempts whose answers are being checked, or are in `aside`."""
        is_open = [about for delivery, about in list(self._open.items()) if not delivery.is_lost]
        return [*is_open, *(it.about for it in aside if isinstance(it, UncheckedAnswer))]

    def set_aside(self, aside: Sequence[SetAside]) -> None:
        """Check these; each comes into a later batch."""
        for it in aside:
            match it:
                case UncheckedAnswer():
                    self._open[it.delivery] = it.about
                    check = asyncio.create_task(self._check(it))
                    self._checks[check] = it.delivery
                    check.add_done_callback(lambda check: self._checks.pop(check, None))
                case DeferredGoodbye():
                    self._goodbyes.append(it)

    def done(self, batch: Sequence[Delivery]) -> None:
        """These are done with; what was to come after them can come."""
        if not self._open:
            return
        judged = [delivery for delivery in batch if delivery in self._verdicts]
        for delivery in [*judged, *(delivery for delivery in self._open if delivery.is_lost)]:
            self._verdicts.pop(delivery, None)
            self._open.pop(delivery, None)
        waiting = {about.llm for about in self.being_checked()}
        ready = [it for it in self._goodbyes if it.llm not in waiting]
        self._goodbyes = [it for it in self._goodbyes if it.llm in waiting]
        for it in ready:
            self._on_ready(it.delivery)

    def leave(self) -> None:
        """Stop checking, and give back what is not done."""
        checks, self._checks = self._checks, {}
        for check in checks:
            check.cancel()
        for delivery in [*checks.values(), *(it.delivery for it in self._goodbyes)]:
            delivery.requeue()
        self._goodbyes = []
        self._open.clear()
        self._verdicts.clear()

    def close(self) -> None:
        """End the helper processes."""
        self._helpers.close()

    def _verdict(self, delivery: Delivery, answer: Any, schema: dict[str, Any]) -> tuple[Failure | None, bool]:
        if delivery in self._verdicts:
            return self._verdicts[delivery], True
        return quick_check(answer, schema)

    async def _check(self, it: UncheckedAnswer) -> None:
        async with self._turns[it.about.llm]:
            failure = await self._failure(it)
        if not it.delivery.is_lost:  # else it comes again
            self._verdicts[it.delivery] = failure
            self._on_ready(it.delivery)

    async def _failure(self, it: UncheckedAnswer) -> Failure | None:
        llm = it.about.llm
        if llm in self._slow and sum(about.llm == llm for about in self._open.values()) > MOST_BEHIND_A_SLOW_ONE:
            return Failure(type=OUTPUT_SCHEMA, message=f"too many answers of {llm} wait to be checked")
        while True:
            try:
                failure = await check_apart(it.answer, it.schema, self._helpers)
            except OSError as error:
                _log.warning("an answer cannot be checked yet", llm=llm, error=str(error))
                await asyncio.sleep(AGAIN)
            else:
                break
        if failure is None or failure.retryable:
            self._slow.discard(llm)
        else:
            self._slow.add(llm)
        return failure


def _schema_for(llm: str, result: Result, tasks: Mapping[str, Task]) -> dict[str, Any] | None:
    """The schema that a result has to satisfy to count; None where it has not, or does not count anyway."""
    task = tasks.get(result.task_id)
    if task is None or task.status.is_final or result.outcome != "completed" or task.spec.output_schema is None:
        return None
    had = [(attempt.attempt, attempt.llm) for attempt in task.attempts]
    return task.spec.output_schema if (result.attempt, llm) in [(task.attempt, task.llm), *had] else None


def _failed(result: Result, failure: Failure) -> Result:
    return result.model_copy(update={"outcome": "failed", "result": None, "error": failure})
