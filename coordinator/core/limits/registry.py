"""All rate limits, and the LLMs that belong to each."""

from collections.abc import Collection, Iterable, Mapping

from broker.timestamps import Instant
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import Task


class RateLimits:
    """Keeps the limits, the free slots of their LLMs and the ready lanes in agreement.

    LLMs whose slots may be free are added to `freed_llms`; limits that must be stored to `changed`.
    """

    def __init__(self, ready: ReadyQueue, freed_llms: dict[str, LLM]) -> None:
        self._ready = ready
        self._freed_llms = freed_llms
        self._limits: dict[str, RateLimit] = {}
        self._members: dict[str, dict[str, LLM]] = {}
        self._bounded: dict[str, RateLimit] = {}
        self.changed: dict[str, RateLimit] = {}
        self.forgotten: list[str] = []

    def get(self, name: str) -> RateLimit | None:
        """Return the limit of that name, if there is one."""
        return self._limits.get(name)

    def add(self, name: str) -> RateLimit:
        """Return the limit of that name, a new one if the name is unknown."""
        if name not in self._limits:
            self._limits[name] = RateLimit(name)
        return self._limits[name]

    def names(self) -> Iterable[str]:
        """Return the names of all limits."""
        return self._limits.keys()

    def members(self, name: str) -> Mapping[str, LLM]:
        """Return the LLMs of a limit, by name."""
        return self._members.get(name, {})

    def restore(
        self, limits: Iterable[RateLimit], llms: Collection[LLM], running: Iterable[Task], now: Instant
    ) -> None:
        """Take over the stored limits, with the LLMs and the assigned and running tasks."""
        self._limits = {limit.name: limit for limit in limits}
        for llm in llms:
            self.assign(llm, now)
        by_name = {llm.name: llm for llm in llms}
        for task in running:
            if (at := by_name.get(task.llm or "")) is not None and at.rate_limit is not None:
                at.rate_limit.take_over(task.id, task.size, parked=task.parked)
        for limit in self._limits.values():
            self.refresh(limit, now)

    def assign(self, llm: LLM, now: Instant) -> None:
        """Make an LLM a member of the limit that it names."""
        before = llm.rate_limit
        if before is not None and before.name == llm.limit:
            return
        limit = llm.rate_limit = self.add(llm.limit)
        self._members.setdefault(limit.name, {})[llm.name] = llm
        if before is not None:
            self._members[before.name].pop(llm.name, None)
            for task_id in llm.tasks():
                before.hand_over(task_id, limit)
            self.refresh(before, now)
        self.refresh(limit, now)
        llm.count()

    def remove(self, llm: LLM) -> None:
        """Remove an LLM that is forgotten."""
        if llm.rate_limit is not None:
            self._members[llm.rate_limit.name].pop(llm.name, None)

    def begin(self, task: Task, llm: LLM, now: Instant) -> None:
        """A run of a task begins at an LLM."""
        limit = llm.rate_limit
        if limit is None:
            return
        limit.begin(task.id, task.size, now)
        if limit.is_counted:
            self.changed[limit.name] = limit
        if limit.room is not None or limit.is_bounded:
            self.refresh(limit, now)

    def end(self, task: Task, llm: LLM, now: Instant) -> None:
        """A run of a task ended, or an assignment is taken back."""
        limit = llm.rate_limit
        if limit is None or not limit.end(task.id, task.usage, task.size, now):
            return
        if limit.is_counted:
            self.changed[limit.name] = limit
        if limit.room is not None:
            self.refresh(limit, now)

    def park(self, task: Task, llm: LLM, now: Instant) -> None:
        """A run waits without a slot."""
        if llm.rate_limit is not None:
            llm.rate_limit.park(task.id)
            self.refresh(llm.rate_limit, now)

    def unpark(self, task: Task, llm: LLM, now: Instant) -> None:
        """A run goes on."""
        if llm.rate_limit is not None:
            llm.rate_limit.unpark(task.id)
            self.refresh(llm.rate_limit, now)

    def refresh(self, limit: RateLimit, now: Instant) -> None:
        """Bring the free slots of its LLMs up to date."""
        changed = limit.measure(now)
        if limit.room is None:
            self._bounded.pop(limit.name, None)
        else:
            self._bounded[limit.name] = limit
        if changed:
            for llm in self.members(limit.name).values():
                self.recount(llm)

    def recount(self, llm: LLM) -> None:
        """Count the free slots of an LLM again; it may have become available, or no longer be."""
        llm.count()
        self._freed_llms[llm.name] = llm
        if (available := llm.available) != llm.was_available:
            llm.was_available = available
            self._ready.llm_changed(llm)

    def changed_by_hand(self, limit: RateLimit, now: Instant) -> None:
        """Store a limit that was changed, and bring its LLMs up to date."""
        self.changed[limit.name] = limit
        self.refresh(limit, now)
        for llm in self.members(limit.name).values():
            self.recount(llm)

    def time_passed(self, now: Instant) -> list[RateLimit]:
        """Open what is open again; return the limits that opened."""
        opened = []
        for limit in list(self._bounded.values()):
            if limit.time_passed(now):
                opened.append(limit)
                self.changed_by_hand(limit, now)
            else:
                self.refresh(limit, now)
        return opened

    def forget(self, limit: RateLimit) -> None:
        """Delete a limit that has no LLM."""
        del self._limits[limit.name]
        self._bounded.pop(limit.name, None)
        self.changed.pop(limit.name, None)
        self.forgotten.append(limit.name)

    def clock_set(self, by: int) -> None:
        """Move the measured times along with the clock."""
        for limit in self._limits.values():
            limit.clock_set(by)
            if limit.is_bounded:
                self.changed[limit.name] = limit

    def take_changed(self) -> tuple[dict[str, RateLimit], list[str]]:
        """Return the limits to store, and the names of those to delete."""
        changed, self.changed = self.changed, {}
        forgotten, self.forgotten = self.forgotten, []
        return changed, forgotten
