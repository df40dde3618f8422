"""Requests about budgets: what they change, and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from broker.protocol.spending import ManageBudget
from broker.protocol.task_requests import TaskBudget
from tests.support.core_driver import Core
from tests.support.core_events import claimed, completed, submitted
from tests.support.spending import accepted, account, budget, cost, paid, refusals, shown


def test_a_new_budget_has_the_defaults_of_the_protocol(core: Core) -> None:
    [view] = accepted(core.handle(budget("team", usd=5.0)))
    assert (view["name"], view["usd"], view["per"], view["on_empty"]) == ("team", 5.0, "month", "wait")
    assert (view["spent_usd"], view["left_usd"], view["state"]) == (0.0, 5.0, "ok")
    assert view["since"].endswith("-01T00:00:00.000000Z")


def test_absent_fields_keep_their_value_and_null_removes_a_figure(core: Core) -> None:
    core.handle(budget("team", usd=5.0, tokens=100, per="day", on_empty="ask"))
    [view] = accepted(core.handle(budget("team", usd=None, runs=3)))
    assert (view.get("usd"), view["tokens"], view["runs"]) == (None, 100, 3)
    assert (view["per"], view["on_empty"]) == ("day", "ask")


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"budget": "tema", "drop": True}, "budget", "there is no budget tema; did you mean team?"),
        ({"budget": "tema", "raise_usd": 1.0}, "budget", "there is no budget tema; did you mean team?"),
        ({"budget": "other", "per": "day"}, "budget", "nothing is left to limit: give usd, tokens or runs"),
        ({"budget": "team", "usd": None}, "budget", "nothing is left to limit"),
        ({"budget": "team", "raise_tokens": 5}, "raise_tokens", "the budget does not limit tokens"),
        ({"budget": "team", "raise_usd": 10.0**9}, "raise_usd", "the budget would be absurdly large"),
        ({"budget": "team", "raise_usd": 1.0, "value": "ana"}, "value", "the budget team is one for all"),
        ({"budget": "each", "raise_usd": 1.0}, "value", "is missing: each submitter has a separate budget"),
        ({"budget": "task:t9", "raise_usd": 1.0}, "budget", "there is no task t9 that has a budget"),
    ],
)
def test_a_contradictory_or_absurd_request_is_refused(
    core: Core, fields: dict[str, Any], path: str, message: str
) -> None:
    core.handle(budget("team", usd=5.0), budget("each", usd=5.0, by="submitter"))
    before = shown(core)
    [(at, text)] = refusals(core.handle(budget(fields.pop("budget"), **fields)))
    assert at == path
    assert text.startswith(message)
    assert shown(core) == before


def test_absurd_figures_are_no_valid_request() -> None:
    for fields in ({"usd": 0}, {"usd": -1.0}, {"usd": 10.0**10}, {"tokens": 10**16}, {"runs": 0}):
        with pytest.raises(ValidationError):
            ManageBudget(budget="team", **fields)


def test_a_raise_is_for_the_present_period_and_the_value(core: Core) -> None:
    core.handle(paid(), budget("each", usd=1.0, per="hour", by="submitter"))
    [view] = accepted(core.handle(budget("each", raise_usd=2.0, value="ana")))
    assert (view["value"], view["usd"]) == ("ana", 3.0)
    core.handle(paid(), at=3600.0)
    core.handle(paid(), submitted("a"), at=3601.0)
    [view] = shown(core)
    assert (view["value"], view["usd"]) == ("ana", 1.0)


def test_new_figures_keep_what_was_spent_and_what_was_raised(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a"))
    core.handle(claimed("a"), completed("a", usage=cost(0.5)))
    core.handle(budget("team", raise_usd=2.0))
    [view] = accepted(core.handle(budget("team", usd=10.0)))
    assert (view["usd"], view["spent_usd"]) == (12.0, 0.5)


def test_a_budget_that_is_dropped_lets_its_tasks_go_on_and_forgets_nothing(core: Core) -> None:
    core.handle(paid(), budget("team", runs=1))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), completed("a", usage=cost(0.5)))
    core.handle(budget("team", drop=True))
    core.tick(at=1)
    assert (core.status("b"), shown(core)) == ("assigned", [])
    assert account(core, "team").spent_runs == 1
    core.restart()
    [view] = accepted(core.handle(budget("team", runs=5)))
    assert view["spent_runs"] == 1


def test_another_dimension_begins_with_empty_accounts(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a"), submitted("b"), at=1)
    core.handle(claimed("a"), completed("a", usage=cost(0.5)))
    core.handle(budget("team", by="submitter"), at=2)
    core.handle(submitted("c"), at=3)
    core.handle(claimed("c"), completed("c", usage=cost(0.125)), claimed("b"), completed("b", usage=cost(0.25)))
    assert [(view["value"], view["spent_usd"]) for view in shown(core)] == [("ana", 0.125)]
    assert account(core, "team").spent_nanos == 750_000_000


def test_a_higher_figure_wakes_the_waiting_tasks(core: Core) -> None:
    core.handle(paid(), budget("team", runs=1))
    core.handle(submitted("a"), submitted("b"))
    core.handle(budget("team", runs=2))
    core.tick(at=1)
    assert core.status("b") == "assigned"


def test_the_budget_of_a_task_is_shown_only_by_its_name(core: Core) -> None:
    core.handle(paid())
    core.handle(submitted("a", budget=TaskBudget(usd=0.5)))
    assert shown(core) == []
    [view] = accepted(core.handle(budget("task:a", raise_usd=0.25)))
    assert (view["name"], view["usd"], view["on_empty"]) == ("task:a", 0.75, "fail")
