"""What reserve LLMs save: slow local LLMs with paid ones as reserve, against all-local and all-paid, in virtual time.

    .venv/bin/python benchmarks/spill.py --tasks 2000

The tasks and their times are those of the requests to a real service, each with a due date. The LLMs are simulated,
the core is the real one. benchmarks/README.md describes the pools.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from random import Random
from statistics import fmean

from benchmarks.simulation.scenarios import CHARACTERS, Case, Job, Worker, trace, with_due_dates, work
from benchmarks.simulation.through_core import Simulation
from benchmarks.support.command import command
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, print_bars, print_table, write_json
from broker.protocol.primitives import LOCAL, LOCAL_ONLY
from broker.protocol.worker_reports import Price
from coordinator.core.scheduling.policies import DEFAULT

PRICE = Price(input=2.5, output=10.0)
FREE = Price(input=0.0, output=0.0)
LOCALS = tuple(Worker(f"local-{n}", 0.25, slots=2, price=FREE, labels=(LOCAL,)) for n in range(6))
PAID = tuple(Worker(f"paid-{n}", 1.0, slots=4, price=PRICE) for n in range(2))
POOLS = {
    "all local": LOCALS,
    "all paid": PAID,
    "paid as reserve": (*LOCALS, *(replace(worker, reserve=True) for worker in PAID)),
    "both alike": (*LOCALS, *PAID),
}
RESERVE = "paid as reserve"
LOCAL_TASKS = 1_000
COLUMNS = ("", "late", "late %", "paid tasks %", "dollars", "mean wait s")


@dataclass(frozen=True, slots=True)
class Spent:
    """What came of a simulation: tasks, how many were late, attempts at paid LLMs, what those cost, seconds to wait."""

    tasks: float
    late: float
    paid: float
    dollars: float
    mean_wait: float

    @classmethod
    def mean(cls, several: Iterable["Spent"]) -> "Spent":
        """Each figure averaged."""
        columns = zip(*((one.tasks, one.late, one.paid, one.dollars, one.mean_wait) for one in several), strict=True)
        return cls(*map(fmean, columns))


def requests(count: int, seed: int) -> tuple[Job, ...]:
    """The first requests of the trace at their times, as tasks with due dates."""
    jobs = [
        Job(f"t{n}", request.at, request.context * CHARACTERS, work(request))
        for n, request in enumerate(trace()[:count])
    ]
    return with_due_dates(jobs, Random(f"spill {seed}"))


def simulate(pool: str, count: int, seed: int, policy: str = DEFAULT, labels: tuple[str, ...] = ()) -> Spent:
    """Simulate one pool with one set of due dates."""
    jobs = tuple(replace(job, labels=labels) for job in requests(count, seed))
    simulation = Simulation(Case(POOLS[pool], jobs), policy)
    ran = simulation.run()
    priced = {worker.name: worker.price for worker in PAID}
    tokens = {f"t{n}": request for n, request in enumerate(trace()[:count])}
    paid = [(tokens[task_id], priced[llm]) for task_id, llm in simulation.begun if llm in priced]
    return Spent(
        tasks=len(jobs),
        late=sum(job.due is not None and ran[job.id].end > job.due for job in jobs),
        paid=len(paid),
        dollars=sum((one.context * price.input + one.generated * price.output) / 1e6 for one, price in paid if price),
        mean_wait=fmean(ran[job.id].start - job.at for job in jobs),
    )


def row(name: str, spent: Spent) -> tuple[str, ...]:
    """Return the cells of COLUMNS."""
    late, paid = 100 * spent.late / spent.tasks, 100 * spent.paid / spent.tasks
    return name, f"{spent.late:.1f}", f"{late:.2f}", f"{paid:.1f}", f"{spent.dollars:.2f}", f"{spent.mean_wait:.1f}"


def bars(spent: dict[str, Spent], local_only: Spent) -> list[Bar]:
    """Return the targets of paid LLMs as reserve."""
    ours, paid = spent[RESERVE], spent["all paid"]
    return [
        Bar("late ÷ all paid", ours.late / max(1.0, paid.late), "", at_most=1.05),
        Bar("dollars ÷ all paid", ours.dollars / paid.dollars, "", at_most=0.499),
        Bar(f"{local_only.tasks:,.0f} local-only tasks: attempts at paid LLMs", local_only.paid, "", at_most=0),
    ]


def simulate_all(count: int, seeds: Sequence[int], policy: str) -> dict[str, Spent]:
    """Simulate every pool with every seed."""
    with ProcessPoolExecutor() as processes:
        runs = {pool: [processes.submit(simulate, pool, count, seed, policy) for seed in seeds] for pool in POOLS}
        return {pool: Spent.mean(run.result() for run in futures) for pool, futures in runs.items()}


def main() -> None:
    """Parse the options, simulate, print."""
    parser = command(__doc__, broker=False)
    parser.add_argument("--tasks", type=int, default=len(trace()), help="requests of the trace (all)")
    parser.add_argument("--seeds", type=int, default=1, help="sets of due dates (1)")
    parser.add_argument("--policy", default=DEFAULT, help=f"assignment policy ({DEFAULT})")
    options = parser.parse_args()
    spent = simulate_all(options.tasks, range(options.seeds), options.policy)
    local_only = simulate(RESERVE, min(options.tasks, LOCAL_TASKS), 0, options.policy, (LOCAL_ONLY,))
    rows = [row(name, one) for name, one in (*spent.items(), ("reserve, local-only tasks", local_only))]
    print_table(f"{options.tasks:,} tasks, {options.policy}", COLUMNS, rows)
    reached = bars(spent, local_only)
    print_bars("Bars, by the means over all seeds", reached)
    if options.json:
        figures = {name: asdict(one) for name, one in spent.items()} | {"local-only": asdict(local_only)}
        write_json(options.json, "spill", {"pools": figures}, reached)


if __name__ == "__main__":
    run_program(main)
