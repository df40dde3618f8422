"""How close the assignment comes to the optimum: simulated pools with the real core, in virtual time.

    .venv/bin/python benchmarks/makespan.py --seeds 4 --tasks 1000 --scenario heterogeneous

docs/assignment.md describes the simulation and the columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from statistics import median

from benchmarks.simulation import celery, through_core
from benchmarks.simulation.outcome import Outcome, outcome
from benchmarks.simulation.scenarios import SCENARIOS, case
from benchmarks.support.command import command
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from coordinator.core.scheduling.policies import CHEAPEST_IN_TIME, DEFAULT, NAMES

CELERY = "celery-prefetch"
POLICIES = (*(name for name in NAMES if name != CHEAPEST_IN_TIME), CELERY)  # nothing costs anything here
TIGHT = ("homogeneous", "heterogeneous")  # where the bound can nearly be reached
COLUMNS = ("", "makespan ÷ bound", "median", "mean wait s", "p95 wait s", "tasks late")

Simulated = dict[str, list[Outcome]]  # by policy, for each seed


def simulate(scenario: str, tasks: int, seed: int, policy: str) -> Outcome:
    """Simulate one case with every policy."""
    simulated = case(scenario, tasks, seed)
    if policy == CELERY:
        return outcome(simulated, celery.simulate(simulated, noticed_after=through_core.LEASE))
    return outcome(simulated, through_core.Simulation(simulated, policy).run())


def simulate_all(
    scenario: str, tasks: int, seeds: Sequence[int], policies: Sequence[str], pool: ProcessPoolExecutor
) -> Simulated:
    """Simulate every policy with every seed."""
    runs = {policy: [pool.submit(simulate, scenario, tasks, seed, policy) for seed in seeds] for policy in policies}
    return {policy: [run.result() for run in futures] for policy, futures in runs.items()}


def bars(scenario: str, simulated: Simulated) -> list[Bar]:
    """Return the targets of the default policy in a scenario, compared with the best other policy in each column."""
    if DEFAULT not in simulated:
        return []
    ours = Outcome.mean(simulated[DEFAULT])
    found = []
    if scenario in TIGHT:
        found.append(Bar(f"{scenario}: makespan ÷ bound", ours.ratio, "", at_most=1.05))
    others = [Outcome.mean(outcomes) for policy, outcomes in simulated.items() if policy != DEFAULT]
    if not others:
        return found
    if any(one.late for one in (ours, *others)):
        fewest = min(other.late for other in others)
        found.append(Bar(f"{scenario}: tasks late ÷ best other", _share(ours.late, fewest), "", at_most=0.999))
    for name, column in (("makespan", "ratio"), ("mean wait", "mean_wait"), ("p95 wait", "p95_wait")):
        best = min(getattr(other, column) for other in others)
        found.append(Bar(f"{scenario}: {name} ÷ best other", _share(getattr(ours, column), best), "", at_most=1.02))
    return found


def _share(ours: float, best: float) -> float:
    return ours / best if best else (1.0 if not ours else float("inf"))


def rows(simulated: Simulated) -> Iterable[tuple[str, ...]]:
    """Return one row for each policy, with the cells of COLUMNS."""
    for policy, outcomes in simulated.items():
        mean = Outcome.mean(outcomes)
        middle = median(one.ratio for one in outcomes)
        yield (
            policy,
            f"{mean.ratio:.3f}",
            f"{middle:.3f}",
            f"{mean.mean_wait:.1f}",
            f"{mean.p95_wait:.1f}",
            f"{mean.late:.1f}",
        )


def figures(results: Mapping[str, Simulated]) -> dict[str, object]:
    """Return every run by scenario and policy."""
    return {
        "runs": {
            scenario: {policy: [asdict(one) for one in outcomes] for policy, outcomes in simulated.items()}
            for scenario, simulated in results.items()
        }
    }


def main() -> None:
    """Parse the options, simulate, print."""
    parser = command(__doc__, broker=False)
    parser.add_argument("--seeds", type=int, default=30, help="simulations of each scenario with each policy (30)")
    parser.add_argument("--first-seed", type=int, default=0, help="the seeds count from this one (0)")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks of a simulation (2000)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, metavar="POLICY")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results: dict[str, Simulated] = {}
    reached: list[Bar] = []
    with ProcessPoolExecutor() as pool:
        for scenario in options.scenario or SCENARIOS:
            simulated = simulate_all(scenario, options.tasks, seeds, options.policies, pool)
            results[scenario] = simulated
            reached += bars(scenario, simulated)
            print_table(f"{scenario}: {(SCENARIOS[scenario].__doc__ or '').strip()}", COLUMNS, rows(simulated))
    if reached:
        print_bars("Bars, by the means over all seeds", reached)
        missed = sum(not bar.reached for bar in reached)
        console.print(f"BAR {'met' if not missed else 'not met'}: {len(reached) - missed} of {len(reached)} reached")
    if options.json:
        write_json(options.json, "makespan", figures(results), reached)


if __name__ == "__main__":
    run_program(main)
