"""What a decision costs: through the real core, from few LLMs and tasks to 1,000 LLMs and 100,000 ready tasks.

    .venv/bin/python benchmarks/decisions.py --decisions 5000

Every LLM is kept busy: a run ends, its slot is filled. `decision` is the policy alone, with what it keeps up to date
for itself; `handle` is all that the core does for a task that ends and the one that takes its place; also `bounded`,
with rate limits and budgets in force.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from time import perf_counter, process_time
from typing import Any

from benchmarks.simulation.nothing_stored import NothingStored
from benchmarks.support.command import command
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, print_bars, print_table, write_json
from broker.protocol.spending import ManageBudget, ManageLimit
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Claim, Presence, Price, Result, Usage
from broker.timestamps import Instant, seconds
from coordinator.core.commands import Command, SendAssignment
from coordinator.core.events import (
    Claimed,
    Event,
    Heartbeat,
    ManageBudgetRequested,
    ManageLimitRequested,
    Reported,
    Sender,
    Submitted,
)
from coordinator.core.machine import Machine, MachineOptions
from coordinator.core.scheduling.decision import Decision, HeldBack
from coordinator.core.scheduling.earliest_finish import EarliestFinish
from coordinator.core.scheduling.lane import Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.transaction import transaction
from fluffle.cli.python_tuning import set_up_for_long

START = Instant(1_800_000_000_000_000)
LEASE = seconds(86_400)
LIMITS = 4
ANA = Sender("ana")
PRICE = Price(input=2.5, output=7.5)
BOUNDS: tuple[Event, ...] = (
    *(
        ManageLimitRequested(ManageLimit(limit=f"key-{n}", requests_per_minute=1e9, tokens_per_minute=1e9))
        for n in range(LIMITS)
    ),
    ManageBudgetRequested(ManageBudget(budget="all", usd=1e9)),
    ManageBudgetRequested(ManageBudget(budget="each", runs=10**9, by="submitter")),
)
COLUMNS = ("", "ready tasks", "decisions/s", "decision µs", "handle µs", "handle µs, bounded")


@dataclass(frozen=True, slots=True)
class Size:
    """A pool. Each LLM has `known` of the skills; each task needs one of them. Runs take from 1 to `spread` seconds."""

    name: str
    llms: int
    tasks: int
    skills: int
    known: int
    spread: float


SIZES = (
    Size("4 alike", 4, 1_000, 1, 1, 1.0),
    Size("10, 20x apart", 10, 10_000, 4, 2, 20.0),
    Size("100, 20x apart", 100, 10_000, 10, 3, 20.0),
    Size("1,000, 20x apart", 1_000, 100_000, 50, 5, 20.0),
)


class Timed(EarliestFinish):
    """The default policy with a stop-watch: `spent` in seconds."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.decisions = 0

    def pick(self, lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | HeldBack | None:
        """See Policy."""
        began = perf_counter()
        picked = super().pick(lane, ready, now)
        self.spent += perf_counter() - began
        self.decisions += isinstance(picked, Decision)
        return picked


class TimedMachine(Machine):
    """A machine with a stop-watch: `spent` in seconds."""

    spent = 0.0

    def handle(self, *events: Event, now: Instant) -> list[Command]:
        """See Machine."""
        began = perf_counter()
        commands = super().handle(*events, now=now)
        self.spent += perf_counter() - began
        return commands


class Pool:
    """LLMs that are always busy."""

    def __init__(self, size: Size, *, bounded: bool = False) -> None:
        """With `bounded`, rate limits with figures and budgets in dollars and runs are in force, which allow it all."""
        self.policy = Timed()
        self._usage = Usage(input_tokens=400, output_tokens=200, cost_usd=0.0025) if bounded else None
        self._random = Random(size.name)
        self._machine = TimedMachine(MachineOptions(LEASE, lambda: self.policy, window=2 * size.tasks))
        self._tags = [f"s{n}" for n in range(size.skills)]
        self._nothing_stored = NothingStored()
        self._now = START
        self._running: list[tuple[str, int, str]] = []
        self._runs: dict[str, float] = {}
        self._submitted = 0
        if bounded:
            self._handle(BOUNDS)
        for number in range(size.llms):
            name = f"llm-{number}"
            self._runs[name] = self._random.uniform(1.0, size.spread)
            skills = dict.fromkeys(self._random.sample(self._tags, size.known), 1.0)
            account: dict[str, Any] = {"limit": f"key-{number % LIMITS}", "price": PRICE} if bounded else {}
            self._handle([Heartbeat(Presence(name=name, instance="i", skills=skills, **account))])
        for _ in range(size.tasks // 1000 + 1):
            self._handle([self._new() for _ in range(1000)])

    def turn(self) -> float:
        """A run ends, another task comes. Returns the seconds that the core was busy."""
        place = self._random.randrange(len(self._running))
        self._running[place], self._running[-1] = self._running[-1], self._running[place]
        task_id, attempt, llm = self._running.pop()
        self._now = Instant(self._now + 1000)
        result = Result(
            task_id=task_id,
            attempt=attempt,
            instance="i",
            outcome="completed",
            duration=self._runs[llm] * self._random.lognormvariate(0, 0.5),
            usage=self._usage,
        )
        return self._handle([Reported(llm, result), self._new()])

    def _new(self) -> Submitted:
        self._submitted += 1
        skill = self._random.choice(self._tags)
        return Submitted(f"t{self._submitted}", Submission(description="Do it", skills=[skill]), 4, ANA)

    def _handle(self, events: Sequence[Event]) -> float:
        self._machine.spent = 0.0
        given = [command for command in self._transact(events) if isinstance(command, SendAssignment)]
        spent = self._machine.spent
        self._running += [(one.task_id, one.attempt, one.llm) for one in given]
        claims = [Claimed(one.llm, Claim(task_id=one.task_id, attempt=one.attempt, instance="i")) for one in given]
        self._transact(claims)
        return spent

    def _transact(self, events: Sequence[Event]) -> list[Command]:
        with transaction(self._machine, self._nothing_stored, events, self._now) as effects:
            return effects.commands


def measure(size: Size, decisions: int, *, bounded: bool = False) -> tuple[float, float]:
    """Microseconds of processor time for each decision: of the policy, of all that the core does."""
    pool = Pool(size, bounded=bounded)
    for _ in range(2 * size.llms):  # until something is known of each
        pool.turn()
    pool.policy.spent, pool.policy.decisions = 0.0, 0
    began, used = perf_counter(), process_time()
    in_core = sum(pool.turn() for _ in range(decisions))
    used_share = (process_time() - used) / (perf_counter() - began)  # other processes may have had their turn
    made = pool.policy.decisions or inf
    return pool.policy.spent / made * used_share * 1e6, in_core / made * used_share * 1e6


def main() -> None:
    """Parse the options, measure, print."""
    parser = command(__doc__, broker=False)
    parser.add_argument("--decisions", type=int, default=10_000, help="decisions measured at each size (10000)")
    options = parser.parse_args()
    set_up_for_long()  # as the coordinator does
    measured = {size: measure(size, options.decisions) for size in SIZES}
    bounded = {size: measure(size, options.decisions, bounded=True) for size in SIZES}
    print_table(
        "LLMs",
        COLUMNS,
        [
            (
                size.name,
                f"{size.tasks:,}",
                f"{1e6 / decision:,.0f}",
                f"{decision:.1f}",
                f"{handle:.1f}",
                f"{bounded[size][1]:.1f}",
            )
            for size, (decision, handle) in measured.items()
        ],
    )
    small, large = measured[SIZES[0]], measured[SIZES[-1]]
    rates = sum(handle for _, handle in measured.values()) / sum(handle for _, handle in bounded.values())
    reached = [
        Bar("rate of the core with limits and budgets in force ÷ without", rates, "", at_least=0.95),
        Bar("a decision among 1,000 LLMs", large[0], "µs", at_most=100),
        Bar("core with 1,000 LLMs and 100,000 tasks ÷ with 4 and 1,000", large[1] / small[1], "", at_most=2),
    ]
    print_bars("Bars", reached)
    if options.json:
        figures = {size.name: {"decision": one[0], "handle": one[1]} for size, one in measured.items()}
        write_json(options.json, "decisions", {"microseconds": figures}, reached)


if __name__ == "__main__":
    run_program(main)
