"""Before an attempt: what is reserved, and what happens when too little is left."""

import pytest

from broker.protocol.task_requests import TaskBudget
from broker.timestamps import in_seconds
from coordinator.core.budgets.admission import RAISE, STOP
from coordinator.core.scheduling.policies import BUILT_IN
from tests.support.core_driver import T0, Core
from tests.support.core_events import (
    answered,
    assignments,
    cancelled,
    claimed,
    completed,
    resumed,
    retried,
    seen,
    submitted,
    waited,
)
from tests.support.spending import (
    FREE,
    USUAL,
    USUAL_TOKENS,
    account,
    allowances,
    budget,
    cost,
    paid,
    refusals,
    shown,
    spent,
)

TWO = 2 * USUAL / 10**9  # what two tasks reserve, in US dollars


def test_an_attempt_reserves_what_it_is_expected_to_use_and_may_use_what_is_left(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0, tokens=10_000))
    commands = core.handle(submitted("a", description="x"))
    assert allowances(commands) == {"a": (10**9, 10_000)}
    [view] = shown(core)
    assert (view["reserved_usd"], view["reserved_tokens"]) == (USUAL / 10**9, USUAL_TOKENS - 1)
    assert (view["left_usd"], view["state"]) == (1.0 - USUAL / 10**9, "ok")


def test_the_end_of_an_attempt_settles_what_it_cost(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), completed("a", usage=cost(0.25, 100)))
    assert spent(core, "team") == 0.25
    assert account(core, "team").spent_tokens == 100
    [view] = shown(core)
    assert (view["spent_runs"], view["unknown_runs"], view["reserved_usd"]) == (1, 0, 0.009002)


def test_without_a_budget_nothing_is_reserved(core: Core) -> None:
    core.handle(paid())
    assert allowances(core.handle(submitted("a"))) == {"a": (None, None)}
    assert core.task("a").reserved_tokens is None
    core.handle(claimed("a"), completed("a", usage=cost(0.25)))
    assert core.task("a").attempts[0].charged_nanos is None


def test_of_many_that_see_the_same_rest_only_as_many_begin_as_fit(core: Core) -> None:
    core.handle(paid(), budget("team", usd=TWO))
    commands = core.handle(*(submitted(task, description="x") for task in "abcde"))
    assert [task for task, _, _ in assignments(commands)] == ["a", "b"]
    waiting = core.task("c")
    assert (waiting.status, waiting.waits_for) == ("blocked", "team")
    assert (waiting.why or "").startswith("waits for the budget team until 2027-02-01 00:00:00 UTC: $0 of $0.018")
    assert waiting.wake_at == account(core, "team").until


def test_room_that_is_given_back_wakes_the_next(core: Core) -> None:
    core.handle(paid(), budget("team", usd=TWO))
    core.handle(*(submitted(task, description="x") for task in "abc"))
    core.handle(claimed("a"), completed("a", usage=cost(0.001)))
    core.tick(at=1)
    assert core.status("c") == "assigned"
    assert core.task("c").waits_for is None


def test_tasks_that_still_do_not_fit_wait_again_and_nothing_happens_until_something_changes(core: Core) -> None:
    core.handle(paid(), budget("team", usd=TWO))
    core.handle(*(submitted(task, description="x") for task in "abcd"))
    core.handle(claimed("a"), completed("a", usage=cost(0.017)))
    core.tick(at=1)
    assert {core.status("c"), core.status("d")} == {"blocked"}
    assert [core.tick(at=2 + n) for n in range(3)] == [[], [], []]
    core.handle(claimed("b"), completed("b", usage=cost(0.0001)))
    core.tick(at=6)
    assert [core.tick(at=7 + n) for n in range(3)] == [[], [], []]
    assert {core.status("c"), core.status("d")} == {"blocked"}


def test_a_new_period_wakes_the_waiting_tasks(core: Core) -> None:
    core.handle(paid(), budget("team", runs=1, per="hour"))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), completed("a", usage=cost(0.001)))
    until = in_seconds((account(core, "team").until or T0) - T0) or 0.0
    core.handle(paid(), at=until - 1)
    assert core.status("b") == "blocked"
    core.handle(at=until)
    assert core.status("b") == "assigned"
    [view] = shown(core)
    assert (view["spent_runs"], view["left_runs"]) == (0, 0)


def test_a_task_whose_budget_fails_it_fails_when_too_little_is_left(core: Core) -> None:
    core.handle(paid(slots=1), budget("team", usd=0.01, on_empty="fail"))
    core.handle(submitted("a"), submitted("b"))
    core.handle(claimed("a"), completed("a", usage=cost(0.009)))
    assert core.status("b") == "failed"
    error = core.task("b").error
    assert error is not None
    assert (error.type, error.retryable) == ("budget_exceeded", False)
    assert "the budget team: $0.009 of $0.01" in error.message


def test_a_task_does_not_fail_while_running_attempts_may_give_back_enough(core: Core) -> None:
    core.handle(paid(), budget("team", usd=TWO, on_empty="fail"))
    core.handle(*(submitted(task, description="x") for task in "abc"))
    assert core.status("c") == "blocked"
    core.handle(claimed("a"), completed("a", usage=cost(0.0001)))
    core.tick(at=1)
    assert core.status("c") == "assigned"


def test_a_run_that_may_need_more_than_the_whole_budget_begins_with_the_budget_as_its_bound(core: Core) -> None:
    core.handle(paid())
    commands = core.handle(submitted("a", budget=TaskBudget(usd=0.005)))
    assert allowances(commands) == {"a": (5_000_000, None)}
    assert core.task("a").reserved_nanos == 5_000_000


def test_runs_are_limited(core: Core) -> None:
    core.handle(paid(), budget("team", runs=2))
    core.handle(*(submitted(task) for task in "abc"))
    assert [core.status(task) for task in "abc"] == ["assigned", "assigned", "blocked"]


@pytest.mark.parametrize("by", ["submitter", "label", "llm", "limit"])
def test_each_value_of_the_dimension_has_an_account_of_its_own(core: Core, by: str) -> None:
    core.handle(paid(limit="key", slots=1), budget("team", usd=1.0, by=by))
    core.handle(submitted("a", labels=["x", "y"]))
    core.handle(claimed("a"), completed("a", usage=cost(0.25)))
    values = {"submitter": ["ana"], "label": ["x", "y"], "llm": ["atlas"], "limit": ["key"]}[by]
    assert [(view["value"], view["spent_usd"]) for view in shown(core)] == [(value, 0.25) for value in values]


# -- the budget of a task ----------------------------------------------------------------------------------------------


def test_all_tasks_of_a_tree_are_charged_to_the_budget_of_its_root(core: Core) -> None:
    core.handle(paid())
    core.handle(submitted("root", budget=TaskBudget(usd=1.0)))
    core.handle(submitted("child", parent_id="root", budget=TaskBudget(usd=0.5)))
    core.handle(submitted("grandchild", parent_id="child"))
    assert core.task("grandchild").charged_to == ("root", "child")
    core.handle(claimed("grandchild"), completed("grandchild", usage=cost(0.25)))
    assert (spent(core, "task:root"), spent(core, "task:child")) == (0.25, 0.25)
    core.handle(claimed("root"), completed("root", usage=cost(0.125)))
    assert (spent(core, "task:root"), spent(core, "task:child")) == (0.375, 0.25)


def test_reviews_and_drafts_are_charged_to_the_reviewed_task(core: Core) -> None:
    core.handle(paid("atlas"), paid("boreas"))
    core.handle(submitted("t", assignee="atlas", reviewer="boreas", budget=TaskBudget(usd=1.0)))
    core.handle(claimed("t.1"), completed("t.1", usage=cost(0.25)))
    verdict = {"approved": True, "remarks": ""}
    core.handle(claimed("t.2", llm="boreas"), completed("t.2", llm="boreas", result=verdict, usage=cost(0.125)))
    assert core.status("t") == "completed"
    assert spent(core, "task:t") == 0.375


def test_a_parent_that_waits_for_its_part_reserves_nothing_meanwhile(core: Core) -> None:
    core.handle(paid())
    core.handle(submitted("root", budget=TaskBudget(usd=0.006)))
    core.handle(claimed("root"), waited("root"), submitted("child", parent_id="root"))
    assert core.status("child") == "assigned"
    core.handle(claimed("child"), completed("child", usage=cost(0.001)), resumed("root"))
    assert core.status("root") == "in_progress"


def test_a_retried_task_has_what_is_left_of_its_budget(core: Core) -> None:
    core.handle(paid())
    core.handle(submitted("a", budget=TaskBudget(usd=0.02)))
    core.handle(claimed("a"), completed("a", usage=cost(0.018)))
    core.handle(retried("a"))
    assert core.status("a") == "failed"
    core.handle(budget("task:a", raise_usd=1.0), retried("a"))
    assert core.status("a") == "assigned"


# -- prices ------------------------------------------------------------------------------------------------------------


def test_an_llm_of_unknown_price_gets_no_task_with_a_budget_in_dollars(core: Core) -> None:
    core.handle(seen("boreas", slots=5), paid(slots=1), budget("team", usd=1.0, by="label"))
    commands = core.handle(submitted("a", labels=["x"]), submitted("b", labels=["x"]), submitted("c"))
    assert {(task, llm) for task, _, llm in assignments(commands)} == {("a", "atlas"), ("c", "boreas")}
    assert core.task("b").why == "the price of boreas is unknown, and the budget team is in US dollars"


def test_tokens_are_limited_whatever_the_price(core: Core) -> None:
    core.handle(seen("atlas"), budget("team", tokens=10_000))
    core.handle(submitted("a"))
    core.handle(claimed("a"), completed("a", usage=cost(None, 400)))
    found = account(core, "team")
    assert (found.spent_tokens, found.spent_nanos, found.unknown_runs) == (400, 0, 1)


def test_a_budget_in_dollars_that_no_llm_has_a_price_for_is_refused(core: Core) -> None:
    core.handle(seen("atlas", model="openai:gpt-9"))
    [(path, message)] = refusals(core.handle(submitted("a", budget=TaskBudget(usd=0.5))))
    assert path == "budget.usd"
    assert message.startswith("nobody knows what atlas costs: set the price")
    assert '[prices."openai:gpt-9"]' in message
    assert not refusals(core.handle(submitted("b", budget=TaskBudget(tokens=500))))
    assert not refusals(core.handle(submitted("c", skills=["nobody-has"], budget=TaskBudget(usd=0.5))))
    core.handle(paid("boreas"))
    assert not refusals(core.handle(submitted("d", budget=TaskBudget(usd=0.5))))


def test_an_unknown_cost_is_charged_as_it_was_reserved(core: Core) -> None:
    core.handle(paid(), budget("team", usd=1.0))
    core.handle(submitted("a", description="x"))
    core.handle(claimed("a"), completed("a"))
    found = account(core, "team")
    assert (found.spent_nanos, found.unknown_runs) == (USUAL, 1)
    assert core.task("a").attempts[0].charged_nanos == USUAL


def test_a_run_that_is_free_costs_nothing_even_with_nothing_left(core: Core) -> None:
    core.handle(paid(slots=1), budget("team", usd=0.01))
    core.handle(submitted("a"))
    core.handle(claimed("a"), completed("a", usage=cost(0.02)), seen("boreas", price=FREE))
    core.handle(submitted("b", assignee="boreas"))
    core.handle(claimed("b", llm="boreas"), completed("b", llm="boreas"))
    assert core.status("b") == "completed"
    assert (spent(core, "team"), account(core, "team").unknown_runs) == (0.02, 0)


@pytest.mark.parametrize("policy", ["earliest-finish", "least-loaded"])
def test_where_too_little_is_left_a_task_waits_for_an_llm_that_is_free_of_charge(policy: str) -> None:
    core = Core(policy=BUILT_IN[policy]())
    core.handle(paid(slots=1), budget("team", usd=0.01, on_empty="fail"))
    core.handle(submitted("a"))
    core.handle(claimed("a"), completed("a", usage=cost(0.0095)), seen("boreas", price=FREE))
    commands = core.handle(submitted("b"), submitted("c"))
    assert assignments(commands) == [("b", 1, "boreas")]
    assert core.task("c").why == "waits for boreas: too little is left of the budget team for atlas"
    core.handle(claimed("b", llm="boreas"), completed("b", llm="boreas"))
    assert core.task("c").llm == "boreas"


# -- asking a person ---------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(core: Core) -> Core:
    """The tasks `b` and `c` have too little left; `b` asks a person."""
    core.handle(paid(slots=5), budget("team", usd=0.01, on_empty="ask"))
    core.handle(submitted("a"))
    core.handle(claimed("a"), completed("a", usage=cost(0.0095)))
    core.handle(submitted("b"), submitted("c"))
    return core


def test_a_person_is_asked_once_for_all_tasks_of_an_account(asking: Core) -> None:
    assert [asking.status(task) for task in "bc"] == ["input_required", "blocked"]
    [question] = asking.task("b").open_questions
    assert question.choices == (RAISE, STOP)
    assert "the budget team" in question.text


def test_to_raise_adds_the_figures_once_more_and_all_go_on(asking: Core) -> None:
    asking.handle(answered("b", RAISE))
    asking.tick(at=1)
    assert asking.status("b") == "assigned"
    assert account(asking, "team").limits.nanos == 20_000_000


def test_to_stop_fails_the_waiting_tasks(asking: Core) -> None:
    asking.handle(answered("b", STOP))
    asking.tick(at=1)
    assert [asking.status(task) for task in "bc"] == ["failed", "failed"]
    asking.handle(submitted("d"))
    assert asking.status("d") == "failed"


def test_a_raise_by_command_withdraws_the_question(asking: Core) -> None:
    asking.handle(budget("team", raise_usd=1.0))
    asking.tick(at=1)
    assert {asking.status(task) for task in "bc"} == {"assigned"}
    assert asking.task("b").questions == []


def test_when_the_asking_task_is_cancelled_another_one_asks(asking: Core) -> None:
    asking.handle(cancelled("b"))
    asking.tick(at=1)
    assert asking.status("c") == "input_required"


def test_the_question_survives_another_coordinator(asking: Core) -> None:
    asking.restart(at=1)
    asking.handle(paid(slots=5))
    asking.handle(answered("b", RAISE))
    asking.tick(at=2)
    assert asking.status("b") == "assigned"
