"""The assignment benchmark on a small scale: the model is right, and the default policy is the best one."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from random import Random

import pytest

from benchmarks import makespan
from benchmarks.simulation import celery, through_core
from benchmarks.simulation.bound import makespan_bound
from benchmarks.simulation.outcome import Outcome, outcome
from benchmarks.simulation.scenarios import NEVER, SCENARIOS, UNEQUAL, Case, Job, Worker, case

SEEDS = 2
TASKS = 300
POLICIES = ("earliest-finish", "round-robin", "least-loaded", makespan.CELERY)


def jobs(*works: float) -> tuple[Job, ...]:
    return tuple(Job(f"t{number}", 0.0, 1000, work) for number, work in enumerate(works))


def means(scenario: str, tasks: int = TASKS) -> dict[str, Outcome]:
    return {
        policy: Outcome.mean(makespan.simulate(scenario, tasks, seed, policy) for seed in range(SEEDS))
        for policy in POLICIES
    }


def test_a_run_takes_its_work_divided_by_the_speed_of_the_llm() -> None:
    assert Worker("w", speed=2.0).finish(10, 4) == 12


def test_a_run_is_ten_times_slower_after_its_llm_slows_down() -> None:
    assert Worker("w", speed=1.0, slows_at=12).finish(10, 4) == pytest.approx(12 + 20)


def test_a_run_at_a_dying_llm_never_ends() -> None:
    assert Worker("w", speed=1.0, dies_at=12).finish(10, 4) == NEVER


def test_the_bound_is_all_work_at_full_speed_or_the_longest_run() -> None:
    two = (Worker("a", 1.0, slots=1), Worker("b", 3.0, slots=1))
    assert makespan_bound(Case(two, jobs(4, 4, 4, 4))) == pytest.approx(4)
    assert makespan_bound(Case(two, jobs(30, 1, 1))) == pytest.approx(10)


def test_the_bound_accounts_for_scarce_skills_and_dead_llms() -> None:
    law = tuple(Job(f"l{number}", 0.0, 1, 5.0, ("law",)) for number in range(2))
    pool = (Worker("a", 1.0, 1, ("law",)), Worker("b", 1.0, 1), Worker("c", 1.0, 1))
    assert makespan_bound(Case(pool, law)) == pytest.approx(10)
    dying = (Worker("a", 1.0, 1), Worker("b", 1.0, 1, dies_at=2.0))
    assert makespan_bound(Case(dying, jobs(1, 1, 1, 1, 1, 1))) == pytest.approx(4)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_policy_beats_the_bound_and_every_task_is_done(scenario: str) -> None:
    simulated = case(scenario, 150, seed=1)
    for ran in (celery.simulate(simulated, 15.0), through_core.Simulation(simulated, "earliest-finish").run()):
        assert ran.keys() == {job.id for job in simulated.jobs}
        assert outcome(simulated, ran).ratio > 1


def test_the_same_seed_gives_the_same_result() -> None:
    first, second = (makespan.simulate("dies", 150, 3, "earliest-finish") for _ in range(2))
    assert first == second


def test_celery_keeps_prefetched_tasks() -> None:
    slow, fast = Worker("a", 0.1, slots=1), Worker("b", 1.0, slots=1)
    ran = celery.simulate(Case((slow, fast), jobs(*[1.0] * 8)), 15.0)
    assert max(run.end for run in ran.values()) == pytest.approx(40), "four tasks wait at the slow one"


def test_requests_come_from_the_trace_in_its_order() -> None:
    arriving = SCENARIOS["arriving"](200, Random(1))
    assert [job.at for job in arriving.jobs] == sorted(job.at for job in arriving.jobs)
    assert len({job.work for job in arriving.jobs}) > 100


def test_a_backlog_is_done_within_five_percent_of_the_bound_at_speeds_20_times_apart() -> None:
    """The rare very long runs of the trace are left out: they make the makespan of few tasks random."""
    random = Random(1)
    works = [random.uniform(0.5, 2.5) for _ in range(600)]
    backlog = tuple(Job(f"t{n}", 0.0, round(work * 8000), work) for n, work in enumerate(works))
    simulated = Case(UNEQUAL, backlog)
    ours, *others = (
        outcome(simulated, through_core.Simulation(simulated, policy).run()).ratio
        for policy in ("earliest-finish", "round-robin", "least-loaded", "random")
    )
    assert ours < 1.05
    assert all(ours < other for other in others)


def test_a_homogeneous_backlog_costs_nothing_compared_with_the_others() -> None:
    ours, *others = means("homogeneous").values()
    assert all(ours.ratio < other.ratio * 1.02 for other in others)


@pytest.mark.parametrize("scenario", ["due-dates", "dies", "slows"])
def test_fewer_tasks_are_late_than_under_any_other_policy(scenario: str) -> None:
    ours, *others = means(scenario).values()
    assert all(ours.late < other.late for other in others)


def test_the_targets_compare_the_default_policy_with_the_best_other() -> None:
    ours, other = Outcome(1.02, 10.0, 20.0, 5), Outcome(1.1, 9.0, 25.0, 6)
    bars = {bar.name: bar.reached for bar in makespan.bars("due-dates", {"earliest-finish": [ours], "random": [other]})}
    assert bars == {
        "due-dates: tasks late ÷ best other": True,
        "due-dates: makespan ÷ best other": True,
        "due-dates: mean wait ÷ best other": False,
        "due-dates: p95 wait ÷ best other": True,
    }


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2) as pool:
        yield pool


def test_several_processes_give_the_same_result_as_one(processes: ProcessPoolExecutor) -> None:
    simulated = makespan.simulate_all("scarce", 100, range(2), ["random"], processes)
    assert simulated == {"random": [makespan.simulate("scarce", 100, seed, "random") for seed in range(2)]}
