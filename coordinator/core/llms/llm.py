"""LLMs: their instances, slots, leases and tasks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from broker.errors import Problem, did_you_mean
from broker.protocol.primitives import LOCAL
from broker.protocol.topology import control_address
from broker.protocol.worker_reports import Presence
from broker.timestamps import EPOCH, Instant, Micros
from coordinator.core.health.breaker import Breaker, BreakerState
from coordinator.core.health.record import HealthRecord
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.duration_estimates import DurationEstimates
from coordinator.core.llms.properties import NO_PROPERTIES, InstanceProfile, Properties

State = Literal["online", "paused", "draining", "offline"]

OVERDUE = 0.5  # a run that takes longer than expected will take this share of its time so far once more
_NAMES_COMPARED = 100  # LLMs, for a name that was misspelled
LOOKED_AT = 8  # oldest runs of an LLM that count for its next free slot


class HeldTask(NamedTuple):
    """A task of an LLM: since when, and its expected duration in microseconds; `resumed` after the attempt waited."""

    since: Instant
    expected: float
    resumed: bool = False


class LLMStatus(NamedTuple):
    """The status of an LLM, as events announce it."""

    state: State
    slots: int
    model: str


@dataclass(slots=True, eq=False)
class Instance:
    """One process of an LLM. It holds the tasks that it has claimed until its lease runs out.

    Of those that it holds, `parked` wait for something and take no slot. `offer` is None until it has introduced
    itself. `control` is the queue for its orders, where it has named one. After an outage it is `excused` until it is
    heard again. `told_slots` is the number of slots that it was last ordered to use; None: all.
    """

    id: str
    slots: int
    lease_until: Instant
    draining: bool = False
    control: str | None = None
    excused: bool = False
    held: set[str] = field(default_factory=set)
    parked: set[str] = field(default_factory=set)
    offer: InstanceProfile | None = None
    breaker: Breaker = field(default_factory=Breaker)
    told_slots: int | None = None

    @property
    def capacity(self) -> int:
        """The number of slots that its circuit breaker leaves it, with those that are taken."""
        match self.breaker.state:
            case BreakerState.CLOSED:
                return self.slots
            case BreakerState.OPEN:
                return min(self.slots, self.working)
            case BreakerState.HALF_OPEN:
                return min(self.slots, max(self.working, 1))

    @property
    def working(self) -> int:
        """The number of taken slots."""
        return len(self.held) - len(self.parked)

    def hold(self, task_id: str, *, parked: bool = False) -> None:
        """Add a task that the instance claimed."""
        self.held.add(task_id)
        if parked:
            self.parked.add(task_id)

    def extend(self, now: Instant, lease: Micros) -> None:
        """Begin the lease again."""
        self.lease_until = Instant(now + lease)

    def let_go(self, task_id: str) -> None:
        """Remove a task that the instance no longer has."""
        self.held.discard(task_id)
        self.parked.discard(task_id)


@dataclass(slots=True, eq=False)
class LLM:
    """An LLM with all its instances. `unclaimed` are tasks assigned to it that no instance has claimed yet.

    `skills` are those that count: given by hand, else those that its instances tell (`told_skills`); likewise each of
    the `properties`. `paused` and `slots_limit` are set by hand too. Where its instances do not say the same of
    themselves, the one that came last speaks for the LLM. With `label_counts`, the label `local` makes it local.
    """

    name: str
    model: str = ""
    skills: Mapping[str, float] = field(default_factory=dict)
    told_skills: Mapping[str, float] = field(default_factory=dict)
    skills_given: Mapping[str, float] | None = None
    labels: Sequence[str] = ()
    description: str = ""
    paused: bool = False
    slots_limit: int | None = None
    last_seen: Instant = EPOCH
    instances: dict[str, Instance] = field(default_factory=dict)
    unclaimed: set[str] = field(default_factory=set)
    free: int = 0
    learned: DurationEstimates = field(default_factory=DurationEstimates)
    told_properties: Properties = NO_PROPERTIES
    properties_given: Mapping[str, Any] = field(default_factory=dict)
    properties: Properties = NO_PROPERTIES
    health: HealthRecord = field(default_factory=HealthRecord)
    rate_limit: RateLimit | None = None
    was_available: bool = False  # as the ready lanes know it
    runs: dict[str, HeldTask] = field(default_factory=dict)  # by task, the oldest first
    label_counts: bool = True

    @property
    def state(self) -> State:
        """`online` when an instance takes work, `draining` when those left do not, `offline` when none is left."""
        if not self.instances:
            return "offline"
        if all(instance.draining for instance in self.instances.values()):
            return "draining"
        return "paused" if self.paused else "online"

    @property
    def is_local(self) -> bool:
        """Whether it sends no data to other machines: as an operator says, else by its label, where that counts."""
        given = self.properties.local
        return self.label_counts and LOCAL in self.labels if given is None else given

    @property
    def context_window(self) -> int | None:
        """Its context window in tokens: as it is known, or smaller after what was learned; None where unknown."""
        known, learned = self.properties.context_window, self.learned.window
        return learned if known is None else known if learned is None else min(known, learned)

    @property
    def slots(self) -> int:
        """The number of tasks that its instances may work on at a time."""
        total = sum(instance.slots for instance in self.instances.values() if not instance.draining)
        return total if self.slots_limit is None else min(total, self.slots_limit)

    @property
    def is_sick(self) -> bool:
        """Whether the circuit breaker of every instance that takes work is open."""
        is_sick = False
        for instance in self.instances.values():
            if not instance.draining:
                if instance.breaker.state is not BreakerState.OPEN:
                    return False
                is_sick = True
        return is_sick

    @property
    def available(self) -> bool:
        """Whether it gets tasks, as soon as it has a free slot."""
        shut = self.rate_limit is not None and self.rate_limit.shuts
        return self.state == "online" and not shut and not self.is_sick

    @property
    def status(self) -> LLMStatus:
        """Its status."""
        return LLMStatus(self.state, self.slots, self.model)

    @property
    def taken(self) -> int:
        """The number of slots that claimed and unclaimed tasks take; parked tasks take none."""
        return len(self.unclaimed) + sum(instance.working for instance in self.instances.values())

    def offers(self) -> frozenset[str]:
        """Return the demands of tasks that it meets (see Task.lane): none, its name, its skills, abilities, local."""
        able = [f"!{ability}" for ability in self.properties.abilities or ()]
        return frozenset(("", f"@{self.name}", *self.skills, *able, *(("!" + LOCAL,) if self.is_local else ())))

    def level(self, skill: str, now: Instant) -> float:
        """Return its level of a skill: its own claim, corrected by the scores of reviews and votes."""
        level = self.skills.get(skill, 0.0)
        found = self.learned.quality.get(skill)
        return level if found is None else level * found.factor(now)

    def begin(self, task_id: str, size: int, skills: Sequence[str], now: Instant, *, resumed: bool = False) -> None:
        """Begin a task of that size, or go on with it."""
        self.runs[task_id] = HeldTask(now, size * self.learned.pace(skills, now), resumed)

    def waits(self, now: Instant) -> Iterator[float]:
        """Yield for each of its oldest runs in how many microseconds its slot is expected to be free."""
        for run in islice(self.runs.values(), LOOKED_AT):
            elapsed = now - run.since
            yield max(run.expected - elapsed, elapsed * OVERDUE)

    def count(self) -> None:
        """Count the free slots again, after instances or tasks changed."""
        capacity = working = 0
        for instance in self.instances.values():
            if not instance.draining:
                capacity += instance.slots if instance.breaker.state is BreakerState.CLOSED else instance.capacity
                working += instance.working
        if self.slots_limit is not None and self.slots_limit < capacity:
            capacity = self.slots_limit
        free = capacity - working - len(self.unclaimed)
        if self.paused or free < 0:
            free = 0
        limit = self.rate_limit
        self.free = free if limit is None or limit.room is None or free < limit.room else limit.room

    def see(self, presence: Presence, control: str | None, now: Instant, lease: Micros) -> None:
        """Update an instance from its hello or heartbeat."""
        self.last_seen = now
        instance = self.instance(presence.instance, now, lease)
        instance.offer = InstanceProfile(
            presence.model, presence.skills, presence.labels, presence.description, Properties.of(presence)
        )
        instance.slots = presence.slots
        instance.draining = presence.draining
        instance.control = control
        instance.extend(now, lease)
        instance.excused = False
        self.speak()
        self.count()

    def speak(self) -> None:
        """Use the profile of the instance that connected last."""
        offers = [instance.offer for instance in self.instances.values() if instance.offer is not None]
        if offers:
            if offers[-1].model != self.model:
                self.learned.window = None
            self.model, self.told_skills, self.labels, self.description, self.told_properties = offers[-1]
            self.give_skills(self.skills_given)
            self.give_properties({})

    def others_than(self, instance_id: str) -> list[Instance]:
        """Return the instances whose profile differs from that of this one, where that matters to tasks."""
        mine = self.instances[instance_id].offer
        return [
            instance
            for instance in self.instances.values()
            if instance.offer is not None and mine is not None and instance.offer.differs_from(mine)
        ]

    def model_of(self, instance_id: str) -> str | None:
        """Return the model of an instance; None when the instance sent no hello, or has left."""
        instance = self.instances.get(instance_id)
        return None if instance is None or instance.offer is None else instance.offer.model

    def instance(self, instance_id: str, now: Instant, lease: Micros) -> Instance:
        """Return an instance, a new one if it is unknown, which has no slots until its hello arrives."""
        if instance_id not in self.instances:
            self.instances[instance_id] = Instance(instance_id, 0, Instant(now + lease))
        return self.instances[instance_id]

    def clock_set(self, by: Micros) -> None:
        """Move its leases and runs along with the clock."""
        for instance in self.instances.values():
            instance.lease_until = Instant(instance.lease_until + by)
            instance.breaker.clock_set(by)
        self.runs = {task_id: run._replace(since=Instant(run.since + by)) for task_id, run in self.runs.items()}

    def control_queue(self, instance_id: str) -> str:
        """Return the queue for the orders to an instance."""
        instance = self.instances.get(instance_id)
        return (instance and instance.control) or control_address(self.name, instance_id)

    def give_skills(self, skills: Mapping[str, float] | None) -> None:
        """Set its skills by hand; None: those that its instances report."""
        self.skills_given = skills
        self.skills = self.told_skills if skills is None else skills

    def give_properties(self, changes: Mapping[str, Any]) -> None:
        """Set some of its properties by hand; None: what its instances report."""
        if "context_window" in changes:
            self.learned.window = None
        given = {**self.properties_given, **changes}
        self.properties_given = {name: value for name, value in given.items() if value is not None}
        self.properties = self.told_properties._replace(**self.properties_given)

    @property
    def limit(self) -> str:
        """The name of the rate limit that it belongs to."""
        return self.properties.limit or self.name

    def tasks(self) -> dict[str, bool]:
        """Return the ids of its tasks, and whether they are parked."""
        parked = set().union(*(instance.parked for instance in self.instances.values()))
        held = self.unclaimed.union(*(instance.held for instance in self.instances.values()))
        return {task_id: task_id in parked for task_id in sorted(held)}

    def give_up(self, task_id: str) -> None:
        """Remove a task that the LLM no longer has."""
        self.unclaimed.discard(task_id)
        self.runs.pop(task_id, None)
        for instance in self.instances.values():
            instance.let_go(task_id)
        self.count()


def no_such_llm(path: str, name: str, known: Iterable[str], *, forceable: bool = True) -> Problem:
    """Return what is wrong with the name of an LLM that never connected."""
    hint = did_you_mean(name, islice(known, _NAMES_COMPARED))
    way_out = f"{hint or ';'} use `force` to wait for this LLM" if forceable else hint
    return Problem(path, f"no LLM named {name} has ever connected{way_out}")
