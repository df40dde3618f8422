"""While attempts run: usage so far, warnings, stops; and what lost, late and repeated reports are charged."""

from typing import Any

import pytest

from broker.protocol.task_requests import OnEmpty, TaskBudget
from coordinator.core.commands import SendStop
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    assignments,
    cancelled,
    claimed,
    completed,
    failed,
    gave_up,
    left,
    progressed,
    resumed,
    seen,
    stops,
    submitted,
    waited,
)
from tests.support.spending import FREE, account, announced, budget, cost, paid, shown, spending, spent


@pytest.fixture
def running(core: Core) -> Core:
    """atlas works on `a` and `b`, and a dollar is there for them."""
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), claimed("b"))
    return core


def test_the_usage_so_far_counts_as_spent(running: Core) -> None:
    running.handle(progressed("a", usage=cost(0.5, 1000)))
    [view] = shown(running)
    assert (view["spent_usd"], view["left_usd"]) == (0.5, 0.490998)
    running.restart()
    assert shown(running) == [view]


def test_a_warning_is_announced_once_at_80_percent_and_once_when_all_is_used(running: Core) -> None:
    told = [
        announced(running.handle(progressed("a", usage=cost(usd))))
        for usd in (0.79, 0.8, 0.9)  # of a dollar
    ]
    assert told == [[], [("team", "warning")], []]
    assert announced(running.handle(progressed("b", usage=cost(0.3)))) == [("team", "empty")]
    assert announced(running.tick(at=1)) == []
    running.restart()
    assert announced(running.handle(submitted("c"))) == []


@pytest.mark.parametrize(("on_empty", "status"), [("wait", "blocked"), ("ask", "input_required"), ("fail", "failed")])
def test_at_100_percent_every_run_is_stopped_and_its_usage_charged(core: Core, on_empty: OnEmpty, status: str) -> None:
    core.handle(paid(), budget("team", usd=1.0, on_empty=on_empty))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), claimed("b"), progressed("b", usage=cost(0.25)))
    commands = core.handle(progressed("a", usage=cost(0.76)))
    assert set(stops(commands)) == {("a", 1, "atlas/i1"), ("b", 1, "atlas/i1")}
    assert {it.reason for it in commands if isinstance(it, SendStop)} == {"the budget team is used up"}
    assert status in {core.status(task) for task in "ab"}
    assert {core.status(task) for task in "ab"} <= {status, "blocked"}
    assert spent(core, "team") == 1.01
    assert [core.task(task).starts for task in "ab"] == ([1, 1] if on_empty == "fail" else [0, 0])


def test_a_parked_attempt_is_stopped_only_when_it_goes_on(core: Core) -> None:
    core.handle(paid())
    core.handle(submitted("root", budget=TaskBudget(usd=0.5)))
    core.handle(claimed("root"))
    core.handle(progressed("root", usage=cost(0.125)), waited("root"), submitted("child", parent_id="root"))
    commands = core.handle(claimed("child"), progressed("child", usage=cost(0.5)))
    assert stops(commands) == [("child", 1, "atlas/i1")]
    assert (core.status("root"), core.status("child")) == ("in_progress", "failed")
    assert stops(core.handle(resumed("root"))) == [("root", 1, "atlas/i1")]
    assert core.status("root") == "failed"
    assert spent(core, "task:root") == 0.625


def test_a_free_run_goes_on_when_the_dollars_are_used_up(core: Core) -> None:
    core.handle(paid(slots=1), seen("boreas", price=FREE), budget("team", usd=1.0))
    core.handle(submitted("a", assignee="atlas"), submitted("b", assignee="boreas"))
    core.handle(claimed("b", llm="boreas"), claimed("a"))
    assert stops(core.handle(progressed("a", usage=cost(1.0)))) == [("a", 1, "atlas/i1")]
    assert core.status("b") == "in_progress"


@pytest.mark.parametrize(
    "end",
    [
        lambda core: core.handle(failed("a")),
        lambda core: core.handle(cancelled("a")),
        lambda core: core.handle(left("atlas")),
        lambda core: core.tick(at=LEASE + 1),
    ],
    ids=["failed", "cancelled", "left", "silent"],
)
def test_an_attempt_that_does_not_complete_is_charged_what_it_last_reported(running: Core, end: Any) -> None:
    running.handle(progressed("a", usage=cost(0.25, 400)))
    end(running)
    [attempt] = running.task("a").attempts
    assert (attempt.charged_nanos, attempt.charged_tokens) == (250_000_000, 400)
    assert running.task("a").reserved_tokens is None
    assert account(running, "team").spent_nanos >= 250_000_000


def test_an_attempt_that_nobody_claimed_costs_nothing(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a"))
    core.handle(cancelled("a"))
    found = account(core, "team")
    assert (found.spent_nanos, found.spent_runs, found.unknown_runs) == (0, 0, 0)
    [view] = shown(core)
    assert view["reserved_usd"] == 0.0


def test_a_late_result_corrects_what_was_charged(running: Core) -> None:
    running.handle(progressed("a", usage=cost(0.25, 400)))
    running.tick(at=LEASE + 1)
    assert (spent(running, "team"), account(running, "team").unknown_runs) == (0.259002, 1)
    running.handle(completed("a", usage=cost(0.5, 900)), completed("b", usage=cost(0.125, 100)))
    found = account(running, "team")
    assert (found.spent_nanos, found.spent_tokens, found.spent_runs) == (625_000_000, 1000, 2)
    assert found.unknown_runs == 0
    running.handle(completed("a", usage=cost(0.5, 900)))
    assert account(running, "team").spent_nanos == 625_000_000


def test_what_a_stopped_attempt_used_until_it_stopped_is_charged_once_its_worker_reports_it(running: Core) -> None:
    running.handle(progressed("a", usage=cost(1.0, 400)))
    assert running.status("a") == "blocked"
    for _ in range(2):
        running.handle(gave_up("a", usage=cost(1.25, 500)))
        found = account(running, "team")
        assert (found.spent_nanos, found.spent_tokens, found.spent_runs) == (1_259_002_000, 500, 2)
    assert running.task("a").attempts[0].usage == cost(1.25, 500)


def test_a_late_result_of_a_former_period_is_charged_there(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0, per="hour"))
    core.handle(submitted("a"), at=1)
    core.handle(claimed("a"))
    core.tick(at=LEASE + 2)
    core.handle(at=2 * 3600)
    core.handle(at=2 * 3600 + 1)
    core.restart()
    core.handle(completed("a", usage=cost(0.5)))
    [first] = [it for key, it in core.database.ledger.items() if key.name == "team" and it.spent_runs]
    assert (first.spent_nanos, first.is_open) == (500_000_000, False)


def test_after_a_restart_exactly_what_runs_is_reserved(running: Core) -> None:
    before = shown(running)
    running.restart()
    assert shown(running) == before
    running.handle(paid(tasks=[("a", 1), ("b", 1)]))
    running.handle(completed("a", usage=cost(0.25)), completed("b", usage=cost(0.25)))
    [view] = shown(running)
    assert (view["spent_usd"], view["reserved_usd"], view["reserved_tokens"]) == (0.5, 0.0, 0)


# -- all spending ------------------------------------------------------------------------------------------------------


def test_stopped_spending_stops_what_costs_money_and_nothing_else(core: Core) -> None:
    core.handle(paid("atlas", slots=1), seen("boreas", price=FREE), seen("cetus"))
    core.handle(*(submitted(llm, assignee=llm) for llm in ("atlas", "boreas", "cetus")))
    core.handle(*(claimed(llm, llm=llm) for llm in ("atlas", "boreas", "cetus")))
    commands = core.handle(spending(stopped=True, reason="the bill"))
    assert {task for task, _, _ in stops(commands)} == {"atlas", "cetus"}
    assert [core.status(task) for task in ("atlas", "boreas", "cetus")] == ["pending", "in_progress", "pending"]
    assert core.task("atlas").starts == 0
    assert core.task("atlas").why == "all spending is stopped: the bill"


def test_stopped_spending_stays_stopped_until_it_is_allowed(core: Core) -> None:
    core.handle(paid(), spending(stopped=True))
    core.restart()
    assert assignments(core.handle(paid(), submitted("a"))) == []
    assert core.task("a").why == "all spending is stopped"
    assert assignments(core.handle(spending(stopped=False))) == [("a", 1, "atlas")]
