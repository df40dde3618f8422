"""A lane: ready tasks with the same demands, the LLMs that meet them, and the fastest free one among these."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, nsmallest
from itertools import islice
from math import exp, log

from broker.timestamps import EPOCH, Instant
from coordinator.core.llms.duration_estimates import FIRST_GUESS, UNLUCKY, UNLUCKY_AT_FIRST
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.aging import Aging, early
from coordinator.core.tasks.task import NO_DUE_DATE, Rank, Task

LAST: Rank = (2**62, 2**62, 2**62)
LEAST_LEVEL = 0.1
NEWCOMER = 3  # runs; each of them may change a lot
CROWDING = 0.02  # how much slower an LLM is taken to be with all its slots busy: of two alike, the emptier one is taken
RARER = 4  # a slot works on near the end if it is late less often than a quarter of its share of the work
QUICKEST = 8  # LLMs that a lane compares

Place = tuple[Rank, str]


@dataclass(slots=True)
class Candidate:
    """An LLM for a lane: `pace` in microseconds a character, `cost` the pace in view of its level and load."""

    llm: LLM
    pace: float
    level: float
    cost: float


@dataclass(slots=True, eq=False)
class Lane:
    """The ready tasks with one key (see Task.lane) in order, and the LLMs that meet its demands.

    `backlog` is the sum of the tasks' sizes, `speed` what all slots together do in a microsecond, `fed_at` when a task
    came last, `unlucky` the logarithm of how much longer than expected an unlucky run takes. `eligible` are all LLMs
    that meet the demands. Policies see only those that are not `reserves`. The order of the quickest LLMs is brought up
    to date once as many slots have become free as there are LLMs, so that a thousand of them cost no more for each task
    than ten.
    """

    key: str
    members: dict[str, Task] = field(default_factory=dict)
    order: list[Place] = field(default_factory=list)
    complete_to: Rank = LAST
    backlog: int = 0
    eligible: dict[str, LLM] = field(default_factory=dict)
    reserves: dict[str, LLM] = field(default_factory=dict)
    quickest: list[Candidate] = field(default_factory=list)
    speed: float = 0.0
    unlucky: float = UNLUCKY_AT_FIRST
    fed_at: Instant = EPOCH
    skills: tuple[str, ...] = ()
    aging: Aging = field(init=False)
    _places: dict[str, Place] = field(default_factory=dict)
    _standings: dict[str, Candidate] = field(default_factory=dict)
    _free: list[tuple[float, str]] = field(default_factory=list)  # heap; entries may be out of date
    _offered: dict[str, float] = field(default_factory=dict)  # the cost with which an LLM is in the heap
    _freed_llms: dict[str, LLM] = field(default_factory=dict)  # offered, and not rated yet
    _guess: float = FIRST_GUESS
    _until_survey: int = 0

    def __post_init__(self) -> None:
        self.aging = Aging(self.members)
        self.skills = tuple(demand for demand in self.demands if demand[0] not in "@!-")

    @property
    def demands(self) -> Sequence[str]:
        """What an LLM must offer (see LLM.offers)."""
        return self.key.split()

    # -- tasks -----------------------------------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether the database holds no task of the lane that memory does not."""
        return self.complete_to is LAST

    def put(self, task: Task) -> None:
        """Add a task."""
        self.members[task.id] = task
        self.backlog += task.size
        self._settle(task, task.rank)
        self.aging.put(task)

    def remove(self, task_id: str) -> None:
        """Remove a task."""
        if task := self.members.pop(task_id, None):
            self.backlog -= task.size
            self._unsettle(task_id)

    def head(self) -> tuple[Rank, Task] | None:
        """The first task with its place, or None."""
        if not self.order:
            return None
        rank, task_id = self.order[0]
        return rank, self.members[task_id]

    def first(self, count: int) -> Iterator[Task]:
        """The first so many tasks."""
        return (self.members[task_id] for _, task_id in islice(self.order, count))

    def backlog_before(self, rank: Rank) -> float:
        """The size of the tasks that go before that rank, if all are of the same size."""
        return self.backlog * bisect_left(self.order, (rank, "")) / len(self.order) if self.order else 0.0

    def put_behind(self, task: Task) -> None:
        """Let the tasks of its priority go first that can still be in time; those without a due date stay behind."""
        self._unsettle(task.id)
        self._settle(task, late(task))

    def put_first(self, task: Task) -> None:
        """Let a task go before the others of its priority, except those that were put first and wait for longer."""
        self._unsettle(task.id)
        self._settle(task, early(task))

    def shorten(self, length: int) -> list[str]:
        """Keep only the first tasks; return the ids of the others, which are only in the database from now on."""
        kept = nsmallest(length, self.members.values(), key=lambda task: task.rank)
        self.complete_to = kept[-1].rank
        others = self.members.keys() - {task.id for task in kept}
        for task_id in others:
            self.remove(task_id)
        return list(others)

    def _settle(self, task: Task, rank: Rank) -> None:
        place = self._places[task.id] = (rank, task.id)
        insort(self.order, place)

    def _unsettle(self, task_id: str) -> None:
        del self.order[bisect_left(self.order, self._places.pop(task_id))]

    # -- LLMs ------------------------------------------------------------------------------------------------------

    def admit(self, llm: LLM) -> None:
        """The LLM meets the demands of the lane, or what it is has changed."""
        self.eligible[llm.name] = llm
        self._until_survey = 0
        if llm.properties.reserve:
            self._withhold(llm)
            self.reserves[llm.name] = llm
        elif self.reserves.pop(llm.name, None) and llm.free:
            self.offer(llm)

    def dismiss(self, llm: LLM) -> None:
        """The LLM no longer meets the demands."""
        del self.eligible[llm.name]
        self.reserves.pop(llm.name, None)
        self._withhold(llm)
        self._until_survey = 0

    def offer(self, llm: LLM) -> None:
        """The LLM has a free slot, or one more; something about it may have been learned."""
        if llm.name in self.reserves:
            return
        changes_much = llm.learned.overall.runs <= NEWCOMER and len(self.eligible) <= QUICKEST
        self._until_survey = 0 if changes_much else self._until_survey - 1
        self._freed_llms[llm.name] = llm

    def best_free(self, now: Instant) -> Candidate | None:
        """The quickest LLM with a free slot, in proportion to its level."""
        self._judge_opened(now)
        while self._free:
            cost, name = self._free[0]
            if self._offered.get(name) == cost:
                candidate = self._standings[name]
                if candidate.llm.free > 0:
                    return candidate
                del self._offered[name]
            heappop(self._free)
        return None

    def free(self, most: int, now: Instant) -> list[Candidate]:
        """The quickest LLMs with a free slot, the best first."""
        found: list[Candidate] = []
        while len(found) < most and (candidate := self.best_free(now)):
            found.append(candidate)
            heappop(self._free)
            del self._offered[candidate.llm.name]
        for candidate in found:
            self._offered[candidate.llm.name] = candidate.cost
            heappush(self._free, (candidate.cost, candidate.llm.name))
        return found

    def all_free(self) -> list[LLM]:
        """Every LLM with a free slot, by name; no reserves."""
        offered = self._offered.keys() | self._freed_llms.keys()
        return [llm for name in sorted(offered) if (llm := self.eligible[name]).free > 0]

    def finds_all_free(self) -> bool:
        """Whether every LLM that was offered can be found by its cost. For tests."""
        heap = set(self._free)
        return all((cost, name) in heap for name, cost in self._offered.items())

    def survey(self, now: Instant) -> None:
        """Bring `quickest` and `speed` up to date, if it is time."""
        if self._until_survey > 0 and self.quickest:
            return
        self.survey_again(now)

    def survey_again(self, now: Instant) -> None:
        """Bring `quickest` and `speed` up to date."""
        self._until_survey = len(self.eligible)
        online = [
            llm for llm in self.eligible.values() if llm.available and llm.slots and llm.name not in self.reserves
        ]
        known = [llm.learned.pace(self.skills, now) for llm in online if llm.learned.overall.runs]
        runs = sum(llm.learned.overall.runs for llm in online)
        if runs:
            self.unlucky = sum(llm.learned.unlucky * llm.learned.overall.runs for llm in online) / runs
        self._guess = log(min(known)) if known else FIRST_GUESS
        standings = [self._judge(llm, now) for llm in online]
        self.quickest = nsmallest(QUICKEST, standings, key=lambda candidate: (candidate.cost, candidate.llm.name))
        self.speed = sum(candidate.llm.slots / candidate.pace for candidate in standings)
        for llm in online:
            if llm.free:
                self._reoffer(llm)

    def unlucky_run(self, candidate: Candidate) -> float:
        """How much longer than expected a run takes there that is as rare as a slot of it among all is small.

        The share of runs that take x times as long as expected is taken for 0.5 / x^a.
        """
        share = min(0.5, 1 / candidate.pace / self.speed / RARER)
        return exp(self.unlucky * log(0.5 / share) / log(0.5 / (1 - UNLUCKY)))

    def pace(self, llm: LLM, now: Instant) -> float:
        """Microseconds that the LLM takes for each character."""
        return llm.learned.pace(self.skills, now, self._guess)

    def _withhold(self, llm: LLM) -> None:
        self._standings.pop(llm.name, None)
        self._offered.pop(llm.name, None)
        self._freed_llms.pop(llm.name, None)

    def _judge_opened(self, now: Instant) -> None:
        """Rate the LLMs that were offered. Most of them have got a task of another lane by now."""
        for llm in self._freed_llms.values():
            if llm.free > 0:
                self._judge(llm, now)
                self._reoffer(llm)
        self._freed_llms.clear()

    def _reoffer(self, llm: LLM) -> None:
        cost = self._standings[llm.name].cost
        if self._offered.get(llm.name) != cost:
            self._offered[llm.name] = cost
            heappush(self._free, (cost, llm.name))

    def _judge(self, llm: LLM, now: Instant) -> Candidate:
        pace = self.pace(llm, now)
        level = sum(llm.level(skill, now) for skill in self.skills) / len(self.skills) if self.skills else 1.0
        crowded = 1 + CROWDING * len(llm.runs) / (llm.slots or 1)
        candidate = Candidate(llm, pace, level, crowded * pace / max(level, LEAST_LEVEL))
        self._standings[llm.name] = candidate
        return candidate


def late(task: Task) -> Rank:
    """Return the place of a task that cannot be in time any more: behind every due date of its priority."""
    return (-task.priority, NO_DUE_DATE - 1, task.seq)
