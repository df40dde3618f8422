"""The LLMs as the coordinator sees them: instances, slots, leases, what each has in hand."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from broker.errors import Problem, did_you_mean
from broker.mappings import without_none
from broker.protocol.primitives import LOCAL
from broker.protocol.topology import control_address
from broker.protocol.worker_reports import Presence, skills_in_text
from broker.timestamps import EPOCH, Instant, Micros, to_iso
from coordinator.core.llms.duration_estimates import DurationEstimates

State = Literal["online", "paused", "draining", "offline"]

OVERDUE = 0.5  # a run that takes longer than expected will take this share of its time so far once more
_NAMES_COMPARED = 100  # LLMs, for a name that was misspelled
LOOKED_AT = 8  # runs of an LLM, the oldest, that are looked at for its next free slot


class HeldTask(NamedTuple):
    """A task in hand: given when, and how long it is expected to take; `resumed` after it has waited."""

    since: Instant
    expected: float
    resumed: bool = False


class LLMStatus(NamedTuple):
    """What everybody is told of an LLM when it changes."""

    state: State
    slots: int
    model: str


class InstanceProfile(NamedTuple):
    """What an instance says of itself."""

    model: str = ""
    skills: Mapping[str, float] = {}
    labels: Sequence[str] = ()
    description: str = ""

    def differs_from(self, other: "InstanceProfile") -> bool:
        """Whether a task may be done otherwise by an instance that says this than by one that says the other."""
        return (self.model, self.skills, sorted(self.labels)) != (other.model, other.skills, sorted(other.labels))

    def __str__(self) -> str:
        skills, labels = skills_in_text(self.skills) or "none", ",".join(self.labels)
        return f"model {self.model or 'none'}, skills {skills}{f', labels {labels}' if labels else ''}"


@dataclass(slots=True, eq=False)
class Instance:
    """One process of an LLM. It holds the tasks that it has claimed until its lease runs out.

    Of those that it holds, `parked` wait for something and take no slot. `offer` is None until it has introduced
    itself. `control` is the queue for its orders, where it has named one. After an outage it is `excused` until it is
    heard again.
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

    @property
    def working(self) -> int:
        """How many of its slots are taken."""
        return len(self.held) - len(self.parked)

    def hold(self, task_id: str, *, parked: bool = False) -> None:
        """It has claimed this task."""
        self.held.add(task_id)
        if parked:
            self.parked.add(task_id)

    def extend(self, now: Instant, lease: Micros) -> None:
        """Its lease begins again."""
        self.lease_until = Instant(now + lease)

    def let_go(self, task_id: str) -> None:
        """It has this task no longer."""
        self.held.discard(task_id)
        self.parked.discard(task_id)


@dataclass(slots=True, eq=False)
class LLM:
    """An LLM with all its instances. `unclaimed` are tasks assigned to it that no instance has claimed yet.

    `skills` are those that count: given by hand, else those that its instances tell (`told_skills`). `paused` and
    `slots_limit` are set by hand too. Where its instances do not say the same of themselves, the one that came last
    speaks for the LLM.
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
    runs: dict[str, HeldTask] = field(default_factory=dict)  # by task, the oldest first

    @property
    def state(self) -> State:
        """`online` when an instance takes work, `draining` when those left do not, `offline` when none is left."""
        if not self.instances:
            return "offline"
        if all(instance.draining for instance in self.instances.values()):
            return "draining"
        return "paused" if self.paused else "online"

    @property
    def slots(self) -> int:
        """How many tasks its instances may work on at a time."""
        told = sum(instance.slots for instance in self.instances.values() if not instance.draining)
        return told if self.slots_limit is None else min(told, self.slots_limit)

    @property
    def standing(self) -> LLMStatus:
        """How it stands."""
        return LLMStatus(self.state, self.slots, self.model)

    @property
    def taken(self) -> int:
        """How many slots are taken, by tasks that are claimed or not; those that are parked take none."""
        return len(self.unclaimed) + sum(instance.working for instance in self.instances.values())

    def offers(self) -> frozenset[str]:
        """What tasks may demand of it (see Task.lane): nothing, its name, its skills, to be local."""
        return frozenset(("", f"@{self.name}", *self.skills, *(("!" + LOCAL,) if LOCAL in self.labels else ())))

    def level(self, skill: str, now: Instant) -> float:
        """How well it does that: what is said of it, in view of what reviews and votes have found."""
        level = self.skills.get(skill, 0.0)
        found = self.learned.quality.get(skill)
        return level if found is None else level * found.factor(now)

    def begin(self, task_id: str, size: int, skills: Sequence[str], now: Instant, *, resumed: bool = False) -> None:
        """It is given a task of that size, or goes on with it."""
        self.runs[task_id] = HeldTask(now, size * self.learned.pace(skills, now), resumed)

    def waits(self, now: Instant) -> Iterator[float]:
        """For each of its oldest runs, in how many microseconds its slot is expected to be free."""
        for run in islice(self.runs.values(), LOOKED_AT):
            elapsed = now - run.since
            yield max(run.expected - elapsed, elapsed * OVERDUE)

    def count(self) -> None:
        """Count the free slots anew, after anything about instances or tasks has changed."""
        working = sum(instance.working for instance in self.instances.values() if not instance.draining)
        self.free = 0 if self.paused else max(0, self.slots - working - len(self.unclaimed))

    def see(self, presence: Presence, control: str | None, now: Instant, lease: Micros) -> None:
        """Take in a hello or a beat."""
        self.last_seen = now
        instance = self.instance(presence.instance, now, lease)
        instance.offer = InstanceProfile(presence.model, presence.skills, presence.labels, presence.description)
        instance.slots = presence.slots
        instance.draining = presence.draining
        instance.control = control
        instance.extend(now, lease)
        instance.excused = False
        self.speak()
        self.count()

    def speak(self) -> None:
        """Take over what the instance says of itself that came last."""
        offers = [instance.offer for instance in self.instances.values() if instance.offer is not None]
        if offers:
            self.model, self.told_skills, self.labels, self.description = offers[-1]
            self.give_skills(self.skills_given)

    def others_than(self, instance_id: str) -> list[Instance]:
        """The instances that say something else of themselves than this one, where that matters to tasks."""
        mine = self.instances[instance_id].offer
        return [
            instance
            for instance in self.instances.values()
            if instance.offer is not None and mine is not None and instance.offer.differs_from(mine)
        ]

    def model_of(self, instance_id: str) -> str | None:
        """The model of an instance; None when it has not introduced itself, or has left."""
        instance = self.instances.get(instance_id)
        return None if instance is None or instance.offer is None else instance.offer.model

    def instance(self, instance_id: str, now: Instant, lease: Micros) -> Instance:
        """That instance; one that has not introduced itself has no slots until it does."""
        if instance_id not in self.instances:
            self.instances[instance_id] = Instance(instance_id, 0, Instant(now + lease))
        return self.instances[instance_id]

    def clock_set(self, by: Micros) -> None:
        """Move its leases and runs along with a clock that was set."""
        for instance in self.instances.values():
            instance.lease_until = Instant(instance.lease_until + by)
        self.runs = {task_id: run._replace(since=Instant(run.since + by)) for task_id, run in self.runs.items()}

    def control_queue(self, instance_id: str) -> str:
        """The queue for the orders to that instance."""
        instance = self.instances.get(instance_id)
        return (instance and instance.control) or control_address(self.name, instance_id)

    def give_skills(self, skills: Mapping[str, float] | None) -> None:
        """Set the skills that count; None: those that its instances tell."""
        self.skills_given = skills
        self.skills = self.told_skills if skills is None else skills

    def tasks(self) -> dict[str, bool]:
        """The ids of the tasks that it has, and whether they are parked."""
        parked = set().union(*(instance.parked for instance in self.instances.values()))
        held = self.unclaimed.union(*(instance.held for instance in self.instances.values()))
        return {task_id: task_id in parked for task_id in sorted(held)}

    def give_up(self, task_id: str) -> None:
        """It no longer has this task."""
        self.unclaimed.discard(task_id)
        self.runs.pop(task_id, None)
        for instance in self.instances.values():
            instance.let_go(task_id)
        self.count()


def llm_view(llm: LLM, tasks: Mapping[str, bool], now: Instant) -> dict[str, Any]:
    """The LLM as JSON-able data: the fields of views.LLMView. `tasks` tells by id which it has, and if parked."""
    found = {skill: round(quality.factor(now), 3) for skill, quality in llm.learned.quality.items()}
    by_hand = {
        "slots_limit": llm.slots_limit,
        "skills_given": None if llm.skills_given is None else dict(llm.skills_given),
    }
    return {
        "name": llm.name,
        "state": llm.state,
        "model": llm.model,
        "skills": dict(llm.skills),
        **({"quality": found} if found else {}),
        "slots": llm.slots,
        "paused": llm.paused,
        **without_none(by_hand),
        "in_hand": len(tasks) - (parked := sum(tasks.values())),
        "parked": parked,
        "instances": sorted(llm.instances),
        **({"by_instance": by_instance} if (by_instance := _by_instance(llm)) else {}),
        "description": llm.description,
        "labels": list(llm.labels),
        "last_seen": to_iso(llm.last_seen),
        "tasks": list(tasks),
    }


def _by_instance(llm: LLM) -> list[dict[str, Any]]:
    """Each instance with what it says of itself, where they differ: the fields of views.InstanceView."""
    if not any(llm.others_than(instance_id) for instance_id in llm.instances):
        return []
    return [
        {
            "id": instance.id,
            "model": instance.offer.model,
            "skills": dict(instance.offer.skills),
            "labels": list(instance.offer.labels),
            "slots": instance.slots,
            "draining": instance.draining,
        }
        for instance in llm.instances.values()
        if instance.offer is not None
    ]


def no_such_llm(path: str, name: str, known: Iterable[str], *, forceable: bool = True) -> Problem:
    """Return what is wrong with the name of an LLM that never connected."""
    hint = did_you_mean(name, islice(known, _NAMES_COMPARED))
    way_out = f"{hint or ';'} `force` waits for it all the same" if forceable else hint
    return Problem(path, f"no LLM named {name} has ever said hello{way_out}")
