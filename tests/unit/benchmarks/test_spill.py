"""The benchmark of reserve LLMs on a small scale."""

import pytest

from benchmarks import spill
from benchmarks.simulation import celery, through_core
from benchmarks.simulation.scenarios import Case, Job, Worker
from broker.protocol.primitives import LOCAL_ONLY

TASKS = 250


def jobs(count: int, work: float = 1.0) -> tuple[Job, ...]:
    return tuple(Job(f"t{number}", 0.0, 1000, work) for number in range(count))


def test_paid_llms_in_reserve_make_fewer_tasks_late_than_local_ones_and_cost_less_than_paid_ones() -> None:
    local, paid, reserve = (spill.simulate(pool, TASKS, 0) for pool in ("all local", "all paid", spill.RESERVE))
    assert reserve.late < local.late / 2
    assert 0 < reserve.dollars < paid.dollars
    assert local.dollars == 0


def test_no_local_only_task_is_attempted_at_a_paid_llm() -> None:
    assert spill.simulate(spill.RESERVE, TASKS, 0, labels=(LOCAL_ONLY,)).paid == 0


def test_dollars_are_those_of_the_tokens_of_every_attempt() -> None:
    paid = spill.simulate("all paid", 1, 0)
    assert paid.dollars == pytest.approx((4808 * 2.5 + 10 * 10.0) / 1e6)
    assert paid.paid == 1


def test_the_targets_compare_the_reserve_with_paid_llms() -> None:
    paid = spill.Spent(tasks=100, late=20, paid=100, dollars=10, mean_wait=1)
    ours = spill.Spent(tasks=100, late=22, paid=30, dollars=4, mean_wait=1)
    reached = [bar.reached for bar in spill.bars({"all paid": paid, spill.RESERVE: ours}, spill.Spent(9, 0, 1, 0, 0))]
    assert reached == [False, True, False]


@pytest.mark.parametrize("policy", ["earliest-finish", "celery"])
def test_a_closed_llm_begins_no_task_until_it_opens(policy: str) -> None:
    closed = Case((Worker("a", 1.0, slots=1, closed_at=1.0, opens_at=50.0),), jobs(4))
    ran = celery.simulate(closed, 15.0) if policy == "celery" else through_core.Simulation(closed, policy).run()
    assert not [run for run in ran.values() if 1.5 < run.start < 50.0]
    assert max(run.end for run in ran.values()) > 50.0


@pytest.mark.parametrize("policy", ["earliest-finish", "celery"])
def test_a_failed_attempt_is_tried_again_until_the_task_is_done(policy: str) -> None:
    failing = Case((Worker("a", 1.0, slots=1, fails=0.5),), jobs(20, work=0.1))
    ran = celery.simulate(failing, 15.0) if policy == "celery" else through_core.Simulation(failing, policy).run()
    assert ran.keys() == {f"t{number}" for number in range(20)}
    assert max(run.end for run in ran.values()) > 20 * 0.1 + 5 * 1.0
