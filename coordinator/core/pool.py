"""The LLMs as the coordinator sees them: instances, slots, leases, what each has in hand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from broker.instants import EPOCH, Instant, Micros
from broker.messages import LOCAL, Presence
from coordinator.core.estimates import Learned

State = Literal["online", "draining", "offline"]

RECENT = 0.2  # weight of the newest run time in the mean
OVERDUE = 0.5  # a run that takes longer than expected will take this share of its time so far once more
LOOKED_AT = 8  # runs of an LLM, the oldest, that are looked at for its next free slot


class Run(NamedTuple):
    """A task in hand: given when, and how long it is expected to take."""

    since: Instant
    expected: float


@dataclass(slots=True, eq=False)
class Instance:
    """One process of an LLM. It holds the tasks that it has claimed until its lease runs out."""

    id: str
    slots: int
    lease_until: Instant
    draining: bool = False
    held: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class LLM:
    """An LLM with all its instances. `unclaimed` are tasks assigned to it that no instance has claimed yet."""

    name: str
    model: str = ""
    skills: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] = ()
    description: str = ""
    last_seen: Instant = EPOCH
    mean_run: Micros | None = None
    instances: dict[str, Instance] = field(default_factory=dict)
    unclaimed: set[str] = field(default_factory=set)
    free: int = 0
    learned: Learned = field(default_factory=Learned)
    runs: dict[str, Run] = field(default_factory=dict)  # by task, the oldest first

    @property
    def state(self) -> State:
        """`online` when an instance takes work, `draining` when those left do not, `offline` when none is left."""
        if not self.instances:
            return "offline"
        return "draining" if all(instance.draining for instance in self.instances.values()) else "online"

    @property
    def slots(self) -> int:
        """How many tasks its instances work on at a time."""
        return sum(instance.slots for instance in self.instances.values() if not instance.draining)

    @property
    def in_hand(self) -> int:
        """How many tasks it has, claimed or not."""
        return len(self.unclaimed) + sum(len(instance.held) for instance in self.instances.values())

    def offers(self) -> frozenset[str]:
        """What tasks may demand of it (see Task.lane): nothing, its name, its skills, to be local."""
        return frozenset(("", f"@{self.name}", *self.skills, *(("!" + LOCAL,) if LOCAL in self.labels else ())))

    def begin(self, task_id: str, size: int, skills: Sequence[str], now: Instant) -> None:
        """It is given a task of that size."""
        self.runs[task_id] = Run(now, size * self.learned.pace(skills, now))

    def waits(self, now: Instant) -> Iterator[float]:
        """For each of its oldest runs, in how many microseconds its slot is expected to be free."""
        for since, expected in islice(self.runs.values(), LOOKED_AT):
            elapsed = now - since
            yield max(expected - elapsed, elapsed * OVERDUE)

    def count(self) -> None:
        """Count the free slots anew, after anything about instances or tasks has changed."""
        open_slots = sum(i.slots - len(i.held) for i in self.instances.values() if not i.draining)
        self.free = max(0, open_slots - len(self.unclaimed))

    def see(self, presence: Presence, now: Instant, lease: Micros) -> None:
        """Take in a hello or a beat."""
        self.model = presence.model
        self.skills = presence.skills
        self.labels = presence.labels
        self.description = presence.description
        self.last_seen = now
        instance = self.instance(presence.instance, now, lease)
        instance.slots = presence.slots
        instance.draining = presence.draining
        instance.lease_until = Instant(now + lease)
        self.count()

    def instance(self, instance_id: str, now: Instant, lease: Micros) -> Instance:
        """That instance; one that has not introduced itself has no slots until it does."""
        if instance_id not in self.instances:
            self.instances[instance_id] = Instance(instance_id, 0, Instant(now + lease))
        return self.instances[instance_id]

    def give_up(self, task_id: str) -> None:
        """It no longer has this task."""
        self.unclaimed.discard(task_id)
        self.runs.pop(task_id, None)
        for instance in self.instances.values():
            instance.held.discard(task_id)
        self.count()

    def learn(self, run: Micros) -> None:
        """Take a finished run into the mean."""
        before = run if self.mean_run is None else self.mean_run
        self.mean_run = Micros(round(before + RECENT * (run - before)))
