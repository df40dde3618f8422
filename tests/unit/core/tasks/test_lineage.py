"""Tasks that are part of others: how far they may be handed on, and how they end together."""

from typing import Any

import pytest

from coordinator.core.commands import Command, Refuse
from coordinator.core.events import RetryRequested
from coordinator.core.tasks.lineage import MOST_ANCESTORS
from tests.support.core_driver import Core
from tests.support.core_events import assignments, cancelled, claimed, completed, events, failed, seen, stops, submitted


@pytest.fixture
def core() -> Core:
    """LLMs with plenty of slots; atlas works on the task `top`."""
    core = Core()
    core.handle(*(seen(llm, slots=20) for llm in ("atlas", "boreas", "clio")))
    core.handle(submitted("top", assignee="atlas"))
    core.handle(claimed("top"))
    return core


def refusals(commands: list[Command]) -> list[str]:
    """What is refused, with its path."""
    return [str(problem) for command in commands if isinstance(command, Refuse) for problem in command.problems]


def hand_on(core: Core, task_id: str, parent_id: str, llm: str | None = None, **fields: Any) -> list[Command]:
    """A task that is part of another is submitted, and begun by the LLM that gets it."""
    commands = core.handle(submitted(task_id, parent_id=parent_id, assignee=llm, **fields))
    core.handle(*(claimed(id_, attempt, llm=name) for id_, attempt, name in assignments(commands)))
    return commands


# -- handing on ------------------------------------------------------------------------------------------------------


def test_a_part_of_a_live_task_is_accepted(core: Core) -> None:
    hand_on(core, "part", "top", "boreas")
    assert core.status("part") == "in_progress"


def test_a_part_of_nothing_is_refused(core: Core) -> None:
    assert refusals(hand_on(core, "part", "unheard-of")) == ["parent_id: there is no task unheard-of"]


def test_a_part_of_itself_is_refused(core: Core) -> None:
    assert refusals(hand_on(core, "part", "part")) == ["parent_id: there is no task part"]


@pytest.mark.parametrize("end", [completed("top"), cancelled("top"), failed("top", retryable=False)])
def test_a_part_of_a_task_that_is_over_is_refused(core: Core, end: Any) -> None:
    core.handle(end)
    assert refusals(hand_on(core, "part", "top")) == [f"parent_id: top is already {core.status('top')}"]


def test_a_part_that_is_submitted_again_after_its_parents_end_is_known(core: Core) -> None:
    hand_on(core, "part", "top", "boreas")
    core.handle(completed("top"))
    assert refusals(hand_on(core, "part", "top", "boreas")) == []


def test_work_is_not_handed_on_for_ever(core: Core) -> None:
    core.handle(*(seen(f"l{level}", slots=1) for level in range(MOST_ANCESTORS + 1)))
    above = "top"
    for level in range(MOST_ANCESTORS - 1):
        assert refusals(hand_on(core, f"t{level}", above, f"l{level}")) == []
        above = f"t{level}"
    assert refusals(hand_on(core, "one-too-many", above)) == [
        f"parent_id: too deep: {above} has 7 ancestors; at most 8 levels are allowed"
    ]


def test_an_llm_is_at_most_twice_on_the_way(core: Core) -> None:
    assert refusals(hand_on(core, "a", "top", "boreas")) == []
    assert refusals(hand_on(core, "b", "a", "atlas")) == []
    assert refusals(hand_on(core, "c", "b", "atlas")) == [
        "parent_id: delegation loop: atlas would have this work 3 times: atlas -> boreas -> atlas -> atlas"
    ]
    assert refusals(hand_on(core, "d", "b", "clio")) == []


def test_an_llm_that_gets_its_own_work_back_by_itself_does_so_only_twice() -> None:
    core = Core()
    core.handle(seen("atlas", slots=20), submitted("top"))
    core.handle(claimed("top"))
    hand_on(core, "a", "top")
    hand_on(core, "b", "a")
    assert core.status("b") == "in_progress"
    [refusal] = refusals(hand_on(core, "c", "b"))
    assert "atlas would have this work 3 times" in refusal


def test_the_same_request_does_not_come_back(core: Core) -> None:
    hand_on(core, "a", "top", "boreas", description="look it up", inputs={"word": "fluffle"})
    [refusal] = refusals(hand_on(core, "b", "a", "boreas", description="look it up", inputs={"word": "fluffle"}))
    assert refusal == "parent_id: delegation loop: a already asks the same LLM for the same work"
    assert refusals(hand_on(core, "c", "a", "boreas", description="look it up", inputs={"word": "rabbit"})) == []
    assert refusals(hand_on(core, "d", "a", "clio", description="look it up", inputs={"word": "fluffle"})) == []


# -- ending together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "why"), [(cancelled("top"), "was cancelled"), (failed("top", retryable=False), "failed")]
)
def test_what_is_part_of_a_task_ends_with_it(core: Core, end: Any, why: str) -> None:
    hand_on(core, "a", "top", "boreas")
    hand_on(core, "b", "a", "clio")
    hand_on(core, "c", "b", skills=["unheard-of"])
    hand_on(core, "d", "b", depends_on=["c"])
    hand_on(core, "e", "top", "boreas")
    core.handle(completed("e", llm="boreas"))
    commands = core.handle(end)
    assert [stop for stop in stops(commands) if stop[0] != "top"] == [("a", 1, "boreas/i1"), ("b", 1, "clio/i1")]
    assert {task_id: core.status(task_id) for task_id in "abcde"} == {
        **dict.fromkeys("abcd", "cancelled"),
        "e": "completed",
    }
    assert [change.what for change in core.task("a").history] == [
        f"cancelled while in progress at boreas: top, which it is part of, {why}"
    ]
    assert [change.what for change in core.task("d").history] == [
        "cancelled while blocked: b, which it is part of, was cancelled"
    ]
    assert ("d", "cancelled") in events(commands)


def test_what_is_part_of_a_completed_task_goes_on(core: Core) -> None:
    hand_on(core, "a", "top", "boreas")
    core.handle(completed("top"))
    assert core.status("a") == "in_progress"


def test_a_part_that_comes_in_the_batch_in_which_its_parent_ends_ends_too(core: Core) -> None:
    core.handle(submitted("a", parent_id="top", assignee="boreas"), cancelled("top"))
    assert core.status("a") == "cancelled"
    commands = core.handle(cancelled("top"), submitted("b", parent_id="top", assignee="boreas"))
    assert "parent_id: top is already cancelled" in refusals(commands)


def test_parts_end_after_another_coordinator_has_taken_over(core: Core) -> None:
    hand_on(core, "a", "top", "boreas")
    core.restart()
    commands = core.handle(cancelled("top"))
    assert stops(commands) == [("top", 1, "atlas/i1"), ("a", 1, "boreas/i1")]


def test_a_part_that_is_retried_by_hand_goes_on_without_its_parent(core: Core) -> None:
    hand_on(core, "a", "top", "boreas")
    core.handle(cancelled("top"))
    core.handle(RetryRequested("a"))
    assert core.status("a") == "assigned"
