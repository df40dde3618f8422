"""The policies that can be chosen by name, and those that people bring."""

from collections.abc import Sequence

import pytest

from broker.errors import ConfigurationError
from broker.timestamps import Instant
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.earliest_finish import EarliestFinish
from coordinator.core.scheduling.policies import DEFAULT, NAMES
from coordinator.core.tasks.task import Task
from coordinator.policy_loader import load_policy
from tests.support.core_driver import Core
from tests.support.core_events import assignments, claimed, completed, failed, seen, submitted

HERE = "tests.unit.core.scheduling.test_policies"


def last_by_name(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
    return free[-1], "the last by name"


def never(task: Task, free: Sequence[LLM], now: Instant) -> None:
    return None


def broken(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
    raise KeyError("ada")


def stranger(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
    return LLM("somebody"), "never heard of"


def lone(task: Task) -> None:
    return None


def chosen(policy: str, tasks: int = 4, slots: int = 2) -> list[str]:
    """Who gets the tasks, in their order, of three LLMs."""
    core = Core(policy=load_policy(policy))
    core.handle(*(seen(name, slots=slots) for name in ("ada", "ben", "cleo")))
    return [llm for _, _, llm in assignments(core.handle(*(submitted(f"t{number}") for number in range(tasks))))]


def test_the_default_is_the_earliest_finish() -> None:
    assert DEFAULT == NAMES[0] == "earliest-finish"
    assert isinstance(load_policy(DEFAULT), EarliestFinish)


def test_round_robin_gives_each_its_turn() -> None:
    assert chosen("round-robin", 6) == ["ada", "ben", "cleo", "ada", "ben", "cleo"]


def test_round_robin_passes_over_whoever_has_no_free_slot() -> None:
    assert chosen("round-robin", 3, slots=1) == ["ada", "ben", "cleo"]
    core = Core(policy=load_policy("round-robin"))
    core.handle(seen("ada"), seen("ben"), seen("cleo"), submitted("t", assignee="ben"), submitted("u"))
    assert core.task("u").llm == "cleo"
    assert core.task("u").why == "cleo: its turn, of 2 with a free slot; then ada"


def test_least_loaded_takes_the_emptiest() -> None:
    core = Core(policy=load_policy("least-loaded"))
    core.handle(
        seen("ada", slots=2), seen("ben", slots=4), submitted("a", assignee="ada"), submitted("b", assignee="ben")
    )
    core.handle(submitted("t"))
    assert (core.task("t").llm, core.task("t").why) == (
        "ben",
        "ben: least loaded (1 of 4 slots taken), of 2 with a free slot; then ada 1 of 2",
    )


def test_random_draws_the_same_for_the_same_task() -> None:
    drawn = chosen("random", 6)
    assert drawn == chosen("random", 6)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("policy", NAMES)
def test_under_every_policy_all_tasks_are_done(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(*(seen(name, skills=["law"]) for name in ("ada", "ben")))
    given = assignments(core.handle(*(submitted(f"t{number}", skills=["law"]) for number in range(9))))
    done = []
    while given:
        for task_id, attempt, llm in given:
            core.handle(claimed(task_id, attempt, llm=llm))
            done.append(task_id)
        given = assignments(core.handle(*(completed(task_id, n, llm=llm) for task_id, n, llm in given)))
    assert sorted(done) == [f"t{number}" for number in range(9)]


@pytest.mark.parametrize("policy", NAMES)
def test_under_every_policy_a_failed_task_goes_to_another(policy: str) -> None:
    core = Core(policy=load_policy(policy))
    core.handle(seen("ada"), seen("ben"), submitted("t"))
    first = core.task("t").llm or ""
    core.handle(claimed("t", llm=first))
    core.handle(failed("t", llm=first))
    core.handle(at=2)
    assert {first, core.task("t").llm} == {"ada", "ben"}


def test_a_function_of_ones_own_decides() -> None:
    assert chosen(f"{HERE}:last_by_name", 3) == ["cleo", "cleo", "ben"]


def test_its_line_is_what_people_read() -> None:
    core = Core(policy=load_policy(f"{HERE}:last_by_name"))
    core.handle(seen("ada"), seen("ben"), submitted("t"))
    assert core.task("t").why == "ben: the last by name"


def test_a_function_may_let_tasks_wait() -> None:
    core = Core(policy=load_policy(f"{HERE}:never"))
    assert assignments(core.handle(seen("ada"), submitted("t"))) == []
    assert core.task("t").why == "the policy lets it wait"


@pytest.mark.parametrize(
    ("function", "told"), [("broken", "KeyError: 'ada'"), ("stranger", "TypeError: it must return")]
)
def test_a_function_that_fails_does_not_stop_the_work(function: str, told: str) -> None:
    core = Core(policy=load_policy(f"{HERE}:{function}"))
    assert assignments(core.handle(seen("ada"), submitted("t"))) == [("t", 1, "ada")]
    assert told in (core.task("t").why or "")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fastest", "there is no 'fastest': use earliest-finish, round-robin"),
        ("", "there is no ''"),
        ("no.such.module:choose", "cannot be imported: No module named 'no'"),
        (f"{HERE}:nothing", "cannot be imported"),
        (f"{HERE}:HERE", "is not a function"),
        (f"{HERE}:lone", "must take a task, the free LLMs and the time"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_reason(name: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match="policy: ") as refused:
        load_policy(name)
    assert told in str(refused.value)
