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

from broker.connection import Delivery
from broker.helpers import Helpers
from broker.messages import Failure, Result
from broker.output_check import OUTPUT_SCHEMA, check_apart, quick_check
from coordinator.core.events import Event, Left, Reported
from coordinator.core.task import Task

AGAIN = 0.5  # seconds before a check that could not even begin is tried again
MOST_BEHIND_A_SLOW_ONE = 20  # answers of an LLM that wait, when its last one could not be checked

_log = structlog.get_logger("coordinator")


class SetAside(NamedTuple):
    """An answer of an LLM with the schema to check it against; or, without one, what is to come after its answers."""

    delivery: Delivery
    llm: str
    answer: Any = None
    schema: dict[str, Any] | None = None


class Answers:
    """`in_batch` is called by the thread that makes batches, everything else by the event loop.

    `on_ready` is called with a delivery that is to come into the next batch.
    """

    def __init__(self, on_ready: Callable[[Delivery], None] = lambda delivery: None) -> None:
        self._on_ready = on_ready
        self._helpers = Helpers()
        self._verdicts: dict[Delivery, Failure | None] = {}
        self._open: dict[Delivery, str] = {}  # answers that were set aside and are not done, and their LLMs
        self._behind: defaultdict[str, list[Delivery]] = defaultdict(list)  # what comes after them
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # one at a time of each LLM
        self._slow: set[str] = set()  # LLMs whose last answer could not be checked
        self._checks: dict[asyncio.Task[None], Delivery] = {}

    def in_batch(
        self, events: Sequence[Event], origins: Sequence[Delivery], tasks: Mapping[str, Task]
    ) -> tuple[list[Event], list[Delivery], list[SetAside]]:
        """The events with answers checked, their deliveries, and what is to be set aside.

        An answer that does not satisfy the schema of its task is a failed attempt. An LLM's goodbye comes after its
        answers: else they would be taken for lost.
        """
        aside: list[SetAside] = []
        checked: list[tuple[Event, Delivery]] = []
        for event, delivery in zip(events, origins, strict=True):
            match event:
                case Reported(llm, result) if (schema := _schema_for(llm, result, tasks)) is not None:
                    failure, is_known = self._verdict(delivery, result.result, schema)
                    if not is_known:
                        aside.append(SetAside(delivery, llm, result.result, schema))
                        continue
                    if failure is not None:
                        _log.warning("an answer is refused", task=result.task_id, llm=llm, error=failure.message)
                        event = replace(event, result=_failed(result, failure))
                case Left(goodbye) if goodbye.name in {*self._llms(), *(it.llm for it in aside)}:
                    aside.append(SetAside(delivery, goodbye.name))
                    continue
            checked.append((event, delivery))
        return [event for event, _ in checked], [delivery for _, delivery in checked], aside

    def set_aside(self, aside: Sequence[SetAside]) -> None:
        """Check these; each comes into a later batch."""
        for it in aside:
            if it.schema is None:
                self._behind[it.llm].append(it.delivery)
            else:
                self._open[it.delivery] = it.llm
                check = asyncio.create_task(self._check(it, it.schema))
                self._checks[check] = it.delivery
                check.add_done_callback(lambda check: self._checks.pop(check, None))

    def forget(self, batch: Sequence[Delivery]) -> None:
        """These are done with; what was to come after them can come."""
        if not self._open:
            return
        for delivery in [*batch, *(delivery for delivery in self._open if delivery.is_lost)]:
            if delivery in self._verdicts or delivery.is_lost:
                self._verdicts.pop(delivery, None)
                self._open.pop(delivery, None)
        for llm in self._behind.keys() - set(self._llms()):
            for delivery in self._behind.pop(llm):
                self._on_ready(delivery)

    def leave(self) -> None:
        """Stop checking, and give back what is not done."""
        checks, self._checks = self._checks, {}
        for task in checks:
            task.cancel()
        for delivery in [*checks.values(), *(it for behind in self._behind.values() for it in behind)]:
            delivery.requeue()
        self._open.clear()
        self._behind.clear()
        self._verdicts.clear()

    def close(self) -> None:
        """End the helper processes."""
        self._helpers.close()

    def _llms(self) -> list[str]:
        """Of each answer that is set aside, whose it is."""
        return [llm for delivery, llm in list(self._open.items()) if not delivery.is_lost]

    def _verdict(self, delivery: Delivery, answer: Any, schema: dict[str, Any]) -> tuple[Failure | None, bool]:
        if delivery in self._verdicts:
            return self._verdicts[delivery], True
        return quick_check(answer, schema)

    async def _check(self, it: SetAside, schema: dict[str, Any]) -> None:
        async with self._turns[it.llm]:
            failure = await self._failure(it, schema)
        if not it.delivery.is_lost:  # else it comes again
            self._verdicts[it.delivery] = failure
            self._on_ready(it.delivery)

    async def _failure(self, it: SetAside, schema: dict[str, Any]) -> Failure | None:
        if it.llm in self._slow and self._llms().count(it.llm) > MOST_BEHIND_A_SLOW_ONE:
            return Failure(type=OUTPUT_SCHEMA, message=f"too many answers of {it.llm} wait to be checked")
        while True:
            try:
                failure = await check_apart(it.answer, schema, self._helpers)
            except OSError as error:
                _log.warning("an answer cannot be checked yet", llm=it.llm, error=str(error))
                await asyncio.sleep(AGAIN)
            else:
                break
        if failure is None or failure.retryable:
            self._slow.discard(it.llm)
        else:
            self._slow.add(it.llm)
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
