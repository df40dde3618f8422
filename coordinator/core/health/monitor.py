"""Follow the health of LLMs: what attempts show, what time changes, and what people order."""

from broker.protocol.status import Fault
from broker.protocol.worker_reports import Failure, Usage
from broker.timestamps import Instant, Micros
from coordinator.core.commands import AnnounceHealth, AnnounceLimit, SendSlots
from coordinator.core.health.blame import fault_of, is_excused
from coordinator.core.health.breaker import BreakerState
from coordinator.core.limits.rate_limit import CLOSING, RateLimit
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.scheduling.suitability import unsuitable
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import Task

NOT_ITS_HEALTH = frozenset({"worker_stopped"})  # the instance leaves because somebody wants it to

_SLOTS = {BreakerState.CLOSED: None, BreakerState.OPEN: 0, BreakerState.HALF_OPEN: 1}


class HealthMonitor:
    """Keeps breakers, rate limits and the figures of the last hour."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def completed(self, task: Task, llm: LLM, now: Instant) -> None:
        """An attempt, the last of the task, was completed."""
        attempt = task.attempts[-1]
        llm.health.succeeded(attempt.usage, attempt.duration, now)
        since = attempt.started_at or attempt.assigned_at or now
        instance = llm.instances.get(attempt.instance or "")
        if instance is not None and instance.breaker.succeeded(since):
            self._breaker_changed(llm, instance, now)
        limit = llm.rate_limit
        if limit is not None and limit.allowed is not None:
            limit.succeeded(attempt.assigned_at or since, self._most_runs(limit))
            self._state.limits.changed_by_hand(limit, now)

    def failed(self, task: Task, llm: LLM, error: Failure, now: Instant) -> bool:
        """An attempt, the last of the task, failed. Return whether it is excused: it does not count for the task."""
        fault = fault_of(error)
        if fault is Fault.TASK:
            return False
        attempt = task.attempts[-1]
        instance = llm.instances.get(attempt.instance or "")
        if error.type not in NOT_ITS_HEALTH:
            self._count_failure(llm, instance, task.id, error, attempt.usage, now)
        able = self._state.ready.lane(task.lane, now).eligible
        elsewhere = any(
            other is not llm and other.available and not unsuitable(task, other, able) for other in able.values()
        )
        is_sick = instance is not None and instance.breaker.state is not BreakerState.CLOSED
        return is_excused(task, error, self._state.llms, elsewhere=elsewhere, is_sick=is_sick)

    def _count_failure(
        self, llm: LLM, instance: Instance | None, task_id: str, error: Failure, usage: Usage | None, now: Instant
    ) -> None:
        llm.health.failed(error, usage, now)
        self._state.changes.llms[llm.name] = llm
        if error.type in CLOSING and llm.rate_limit is not None:
            limit = llm.rate_limit
            if limit.close(error, error.retry_after, now):
                self._state.emit(AnnounceLimit(now, limit.name, "closed", limit.why, limit.closed_until, limit.tier))
            self._state.limits.changed_by_hand(limit, now)
        elif instance is not None:
            is_unclear = fault_of(error) is Fault.UNCLEAR
            if instance.breaker.failed(error, task_id, now, is_unclear=is_unclear):
                self._breaker_changed(llm, instance, now)

    def seen(self, llm: LLM, now: Instant) -> None:
        """An instance said hello, sent a beat, or left: the LLM may belong to another limit."""
        self._state.limits.assign(llm, now)
        self._state.limits.recount(llm)
        self._order_all(llm)

    def reconnected(self, llm: LLM, instance: Instance) -> None:
        """An instance has a new control queue: the order for its slots may be lost."""
        instance.told_slots = None
        self._order_all(llm)

    def tick(self, now: Instant) -> None:
        """Time has passed: breakers allow probes, and limits open."""
        for llm in self._state.llms.values():
            for instance in llm.instances.values():
                if instance.breaker.state is BreakerState.OPEN and instance.breaker.time_passed(now):
                    self._order_all(llm)
                    self._state.changes.llms[llm.name] = llm
                    self._state.limits.recount(llm)
        for limit in self._state.limits.time_passed(now):
            self._state.emit(AnnounceLimit(now, limit.name, "opened", "", None, None))

    def resume(self, llm: LLM, now: Instant) -> None:
        """Close the breakers of an LLM by hand."""
        for instance in llm.instances.values():
            if instance.breaker.state is not BreakerState.CLOSED:
                instance.breaker.close()
                self._breaker_changed(llm, instance, now)

    def clock_set(self, by: Micros) -> None:
        """Move the times of limits along with the clock."""
        self._state.limits.clock_set(by)

    def _breaker_changed(self, llm: LLM, instance: Instance, now: Instant) -> None:
        breaker = instance.breaker
        if breaker.state is BreakerState.OPEN:
            if breaker.openings == 1:  # otherwise a probe failed, which is nothing new
                opened = AnnounceHealth(now, llm.name, instance.id, "circuit_open", breaker.why, breaker.probe_at)
                self._state.emit(opened)
        else:
            self._state.emit(AnnounceHealth(now, llm.name, instance.id, "circuit_closed", "", None))
        self._state.changes.llms[llm.name] = llm
        self._order_all(llm)
        self._state.limits.recount(llm)
        if llm.is_sick:
            self._state.take_back_unclaimed(llm, now)

    def _order_all(self, llm: LLM) -> None:
        """Tell instances how many slots they may use, where several take assignments from the same queue."""
        for instance in llm.instances.values():
            slots = None if len(llm.instances) == 1 else _SLOTS[instance.breaker.state]
            if slots != instance.told_slots:
                instance.told_slots = slots
                self._state.emit(SendSlots(llm.name, instance.id, slots, instance.breaker.why))

    def _most_runs(self, limit: RateLimit) -> int:
        return sum(llm.slots for llm in self._state.limits.members(limit.name).values())
