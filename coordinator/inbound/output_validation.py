"""Validation of results against the output schemas of their tasks.

Most results are checked in the batch. One whose check may take long is set aside: a process pool checks it, and its
delivery goes into a later batch with the verdict. It is acknowledged only then, so that a crash redelivers it.
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

RETRY_SECONDS = 0.5  # before a check that could not begin is tried again
MAX_BEHIND_SLOW = 20  # results of an LLM that may wait when its last one took too long to check

_log = structlog.get_logger("coordinator")


class UncheckedAnswer(NamedTuple):
    """A result that is set aside, and the schema to check it against."""

    delivery: Delivery
    about: BeingChecked
    answer: Any
    schema: dict[str, Any]


class DeferredGoodbye(NamedTuple):
    """A goodbye that is set aside until earlier results of that LLM are checked."""

    delivery: Delivery
    llm: str


SetAside = UncheckedAnswer | DeferredGoodbye


class OutputValidator:
    """Checks results. The batch thread calls `in_batch` and `being_checked`, the event loop everything else.

    `on_ready` is called with a delivery that belongs into the next batch.
    """

    def __init__(self, on_ready: Callable[[Delivery], None] = lambda delivery: None) -> None:
        self._on_ready = on_ready
        self._helpers = ProcessPool()
        self._open: dict[Delivery, BeingChecked] = {}  # what is set aside and not done
        self._verdicts: dict[Delivery, Failure | None] = {}
        self._goodbyes: list[DeferredGoodbye] = []
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # one check at a time for each LLM
        self._slow: set[str] = set()  # LLMs whose last result took too long to check
        self._checks: dict[asyncio.Task[None], Delivery] = {}

    def in_batch(
        self, events: Sequence[Event], origins: Sequence[Delivery], tasks: Mapping[str, Task]
    ) -> tuple[list[Event], list[Delivery], list[SetAside]]:
        """Return the events with results checked, the delivery of each, and what to set aside.

        A result that does not satisfy the schema of its task becomes a failed attempt. An LLM's goodbye is handled
        after its results, or else these attempts would count as lost.
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
                        _log.warning("refused a result", task=result.task_id, llm=llm, error=failure.message)
                        event = replace(event, result=_failed(result, failure))
                case InstanceLeft(goodbye) if any(it.llm == goodbye.name for it in self.being_checked(aside)):
                    aside.append(DeferredGoodbye(delivery, goodbye.name))
                    continue
            checked.append((event, delivery))
        return [event for event, _ in checked], [delivery for _, delivery in checked], aside

    def being_checked(self, aside: Sequence[SetAside] = ()) -> list[BeingChecked]:
        """Return the attempts whose results are being checked, or are in `aside`."""
        is_open = [about for delivery, about in list(self._open.items()) if not delivery.is_lost]
        return [*is_open, *(it.about for it in aside if isinstance(it, UncheckedAnswer))]

    def set_aside(self, aside: Sequence[SetAside]) -> None:
        """Begin to check these results; each delivery goes into a later batch."""
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
        """Forget the deliveries of a batch that is done; goodbyes behind them become ready."""
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
        """Stop checking, and requeue what is not done."""
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
        if not it.delivery.is_lost:  # otherwise RabbitMQ delivers it again
            self._verdicts[it.delivery] = failure
            self._on_ready(it.delivery)

    async def _failure(self, it: UncheckedAnswer) -> Failure | None:
        llm = it.about.llm
        if llm in self._slow and sum(about.llm == llm for about in self._open.values()) > MAX_BEHIND_SLOW:
            return Failure(type=OUTPUT_SCHEMA, message=f"too many results of {llm} wait to be checked")
        while True:
            try:
                failure = await check_apart(it.answer, it.schema, self._helpers)
            except OSError as error:
                _log.warning("a result cannot be checked yet", llm=llm, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        if failure is None or failure.retryable:
            self._slow.discard(llm)
        else:
            self._slow.add(llm)
        return failure


def _schema_for(llm: str, result: Result, tasks: Mapping[str, Task]) -> dict[str, Any] | None:
    """Return the schema that a result must satisfy; None without one, or if the result does not count anyway."""
    task = tasks.get(result.task_id)
    if task is None or task.status.is_final or result.outcome != "completed" or task.spec.output_schema is None:
        return None
    had = [(attempt.attempt, attempt.llm) for attempt in task.attempts]
    return task.spec.output_schema if (result.attempt, llm) in [(task.attempt, task.llm), *had] else None


def _failed(result: Result, failure: Failure) -> Result:
    return result.model_copy(update={"outcome": "failed", "result": None, "error": failure})
