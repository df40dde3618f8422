"""What is simulated: pools of LLMs and the tasks that come, made from real requests.

The work of a task is counted in seconds that an LLM of speed 1 takes for it.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

from broker.protocol.worker_reports import Price

TRACE = Path(__file__).resolve().parents[1] / "data" / "azure_llm_code_2023.csv"

PREFILL, DECODE = 2000.0, 50.0  # tokens a second that an LLM of speed 1 reads and writes
CHARACTERS = 4  # of text for each token of context
NEVER = float("inf")


class Request(NamedTuple):
    """A line of the trace: seconds after its start, tokens."""

    at: float
    context: int
    generated: int


@dataclass(frozen=True, slots=True)
class Job:
    """A task. Only its text, its skills and its due date are known to a policy, not its work."""

    id: str
    at: float
    characters: int
    work: float
    skills: tuple[str, ...] = ()
    due: float | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Worker:
    """An LLM. From `slows_at` on it is ten times slower; from `dies_at` on nothing is heard of it.

    It gets no tasks from `closed_at` until `opens_at`. The share `fails` of its attempts fails after FAILS_AFTER. With
    a `price`, it is a paid one.
    """

    name: str
    speed: float
    slots: int = 2
    skills: tuple[str, ...] = ()
    slows_at: float = NEVER
    dies_at: float = NEVER
    closed_at: float = NEVER
    opens_at: float = NEVER
    fails: float = 0.0
    price: Price | None = None
    reserve: bool = False
    labels: tuple[str, ...] = ()

    def finish(self, start: float, work: float) -> float:
        """When a run ends that starts then; NEVER when the LLM dies before."""
        end = start + work / self.speed
        if end > self.slows_at:
            done = max(0.0, self.slows_at - start) * self.speed
            end = max(start, self.slows_at) + (work - done) / (self.speed / SLOWER)
        return end if end <= self.dies_at else NEVER

    def is_closed(self, at: float) -> bool:
        """Whether it gets no tasks then."""
        return self.closed_at <= at < self.opens_at

    def failing(self, task_id: str, attempt: int) -> bool:
        """Whether this attempt fails; the same each time."""
        return self.fails > 0 and Random(f"{self.name} {task_id} {attempt}").random() < self.fails


SLOWER = 10.0
FAILS_AFTER = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation: who is there and what comes, in order of arrival."""

    workers: tuple[Worker, ...]
    jobs: tuple[Job, ...]


@cache
def trace() -> tuple[Request, ...]:
    """The requests in order of arrival."""
    with open(TRACE, newline="") as file:
        rows = [(datetime.fromisoformat(row["TIMESTAMP"][:26]), row) for row in csv.DictReader(file)]
    start = rows[0][0]
    return tuple(
        Request((at - start).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for at, row in rows
    )


def work(request: Request) -> float:
    """Seconds at speed 1."""
    return request.context / PREFILL + request.generated / DECODE


def _some(count: int, random: Random) -> list[Request]:
    """Consecutive requests from somewhere in the trace, from its start again after its end."""
    rows = trace()
    first = random.randrange(len(rows))
    taken = [rows[(first + n) % len(rows)] for n in range(count)]
    gaps = [max(0.0, after.at - before.at) for before, after in pairwise(taken)]
    ats = [0.0]
    for gap in gaps:
        ats.append(ats[-1] + gap)
    return [request._replace(at=at) for at, request in zip(ats, taken, strict=True)]


def _backlog(count: int, random: Random) -> tuple[Job, ...]:
    return tuple(
        Job(f"t{n}", 0.0, request.context * CHARACTERS, work(request)) for n, request in enumerate(_some(count, random))
    )


def _arriving(count: int, workers: Sequence[Worker], load: float, random: Random) -> tuple[Job, ...]:
    """Tasks that come as the requests of the trace did, at a rate that is `load` of what the LLMs can do."""
    requests = _some(count, random)
    needed = sum(map(work, requests)) / sum(worker.speed * worker.slots for worker in workers)
    stretch = needed / load / requests[-1].at
    return tuple(
        Job(f"t{n}", request.at * stretch, request.context * CHARACTERS, work(request))
        for n, request in enumerate(requests)
    )


def with_due_dates(jobs: Sequence[Job], random: Random) -> tuple[Job, ...]:
    """Some are urgent, some are not; whether one can be met depends on what else is there."""
    return tuple(
        replace(job, due=job.at + random.choice((20.0, 60.0, 180.0)) * random.uniform(0.5, 1.5)) for job in jobs
    )


EQUAL = tuple(Worker(f"llm-{n}", 1.0) for n in range(8))
UNEQUAL = tuple(Worker(f"llm-{n}", 20 ** (-n / 7)) for n in range(8))  # the first is 20 times as fast as the last


def homogeneous(count: int, random: Random) -> Case:
    """Everything is there at the start; the LLMs are alike."""
    return Case(EQUAL, _backlog(count, random))


def heterogeneous(count: int, random: Random) -> Case:
    """Everything is there at the start; the fastest LLM is 20 times as fast as the slowest."""
    return Case(_shuffled(UNEQUAL, random), _backlog(count, random))


def scarce(count: int, random: Random) -> Case:
    """Everything is there at the start; two of eight LLMs have a skill that a quarter of the tasks need."""
    workers = tuple(
        replace(worker, skills=("write", "law") if n in (2, 5) else ("write",)) for n, worker in enumerate(EQUAL)
    )
    jobs = tuple(
        replace(job, skills=("law",) if random.random() < 0.25 else ("write",)) for job in _backlog(count, random)
    )
    return Case(workers, jobs)


def arriving(count: int, random: Random) -> Case:
    """Tasks come in bursts; the load is three quarters of what the unequal LLMs can do."""
    workers = _shuffled(UNEQUAL, random)
    return Case(workers, _arriving(count, workers, 0.75, random))


def due_dates(count: int, random: Random) -> Case:
    """The same with due dates, and nearly as much to do as can be done."""
    workers = _shuffled(UNEQUAL, random)
    return Case(workers, with_due_dates(_arriving(count, workers, 0.9, random), random))


def dies(count: int, random: Random) -> Case:
    """The same; the second-fastest LLM dies after a third of the time."""
    case = due_dates(count, random)
    at = case.jobs[-1].at / 3
    return replace(case, workers=_changed(case.workers, 1, lambda worker: replace(worker, dies_at=at)))


def slows(count: int, random: Random) -> Case:
    """The same; the fastest LLM becomes ten times slower after a third of the time."""
    case = due_dates(count, random)
    at = case.jobs[-1].at / 3
    return replace(case, workers=_changed(case.workers, 0, lambda worker: replace(worker, slows_at=at)))


def unreliable(count: int, random: Random) -> Case:
    """The same; the fastest LLM is closed for a sixth of the time, the second-fastest fails half of its attempts."""
    case = due_dates(count, random)
    last = case.jobs[-1].at
    workers = _changed(case.workers, 0, lambda worker: replace(worker, closed_at=last / 3, opens_at=last / 2))
    return replace(case, workers=_changed(workers, 1, lambda worker: replace(worker, fails=0.5)))


def _shuffled(workers: Sequence[Worker], random: Random) -> tuple[Worker, ...]:
    """The same LLMs with their names exchanged, so that no policy is lucky with the alphabet."""
    names = [worker.name for worker in workers]
    random.shuffle(names)
    return tuple(replace(worker, name=name) for worker, name in zip(workers, names, strict=True))


def _changed(workers: Sequence[Worker], place: int, change: Callable[[Worker], Worker]) -> tuple[Worker, ...]:
    return tuple(change(worker) if n == place else worker for n, worker in enumerate(workers))


SCENARIOS: dict[str, Callable[[int, Random], Case]] = {
    "homogeneous": homogeneous,
    "heterogeneous": heterogeneous,
    "scarce": scarce,
    "arriving": arriving,
    "due-dates": due_dates,
    "dies": dies,
    "slows": slows,
    "unreliable": unreliable,
}


def case(scenario: str, count: int, seed: int) -> Case:
    """The simulation of that name, size and seed."""
    return SCENARIOS[scenario](count, Random(f"{scenario} {seed}"))
