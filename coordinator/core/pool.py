"""The LLMs as the coordinator sees them: instances, slots, leases, what each has in hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from broker.instants import EPOCH, Instant, Micros
from broker.messages import Presence

State = Literal["online", "draining", "offline"]

RECENT = 0.2  # weight of the newest run time in the mean


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
    description: str = ""
    last_seen: Instant = EPOCH
    mean_run: Micros | None = None
    instances: dict[str, Instance] = field(default_factory=dict)
    unclaimed: set[str] = field(default_factory=set)
    free: int = 0

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

    def count(self) -> None:
        """Count the free slots anew, after anything about instances or tasks has changed."""
        open_slots = sum(i.slots - len(i.held) for i in self.instances.values() if not i.draining)
        self.free = max(0, open_slots - len(self.unclaimed))

    def see(self, presence: Presence, now: Instant, lease: Micros) -> None:
        """Take in a hello or a beat."""
        self.model = presence.model
        self.skills = presence.skills
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
        for instance in self.instances.values():
            instance.held.discard(task_id)
        self.count()

    def learn(self, run: Micros) -> None:
        """Take a finished run into the mean."""
        before = run if self.mean_run is None else self.mean_run
        self.mean_run = Micros(round(before + RECENT * (run - before)))
