"""Tasks for several LLMs in the machine: parts come, end and are given up, whatever happens around them."""

from typing import Any

import pytest

from broker.errors import Problem
from broker.protocol.status import Status
from broker.protocol.task_requests import Vote
from coordinator.core.commands import AnswerSubmitter, Command, Refuse
from coordinator.core.events import AssignRequested, RetryRequested
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    ANA,
    answered,
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    seen,
    stops,
    submitted,
)

LLMS = ("atlas", "boreas", "clio")
CHOICES = Vote(choices=["yes", "no"])


@pytest.fixture
def core() -> Core:
    """Three LLMs with a slot each."""
    core = Core()
    core.handle(*(seen(llm, skills=["think"]) for llm in LLMS))
    return core


def begin(core: Core, *events: Any) -> list[tuple[str, int, str]]:
    """Handle events, and have every assignment claimed; returns the assignments."""
    given = assignments(core.handle(*events))
    core.handle(*(claimed(task_id, attempt, llm=llm) for task_id, attempt, llm in given))
    return given


def end(core: Core, task_id: str, result: Any = "done", *, at: float | None = None) -> list[Command]:
    """Whoever has the task completes it."""
    task = core.task(task_id)
    return core.handle(completed(task_id, task.attempt, llm=task.llm or "", result=result), at=at)


def vote(task_id: str = "v", **fields: Any) -> Any:
    return submitted(task_id, mode="vote", assignees=list(LLMS), **{"vote": CHOICES, **fields})


def ballot(choice: str) -> dict[str, str]:
    return {"choice": choice, "reason": ""}


def statuses(core: Core) -> dict[str, str]:
    return {task_id: core.status(task_id) for task_id in core.database.tasks}


def refusals(commands: list[Command]) -> list[Problem]:
    return [problem for command in commands if isinstance(command, Refuse) for problem in command.problems]


# -- the way of a group ----------------------------------------------------------------------------------------------


def test_a_group_is_in_progress_while_its_parts_are_at_work(core: Core) -> None:
    commands = core.handle(submitted("g", mode="all", assignees=["atlas", "boreas"], priority=7, labels=["pets"]))
    assert [c.view["status"] for c in commands if isinstance(c, AnswerSubmitter)] == ["in_progress"]
    assert assignments(commands) == [("g.1", 1, "atlas"), ("g.2", 1, "boreas")]
    assert answers(commands) == [("g", "task.accepted", "replies-of-ana")]
    assert [event for event in events(commands) if event[0] == "g"] == [("g", "in_progress")]
    group, part = core.task("g"), core.task("g.1")
    assert (group.llm, group.in_hand, group.started_at) == (None, False, group.submitted_at)
    assert (part.spec.parent_id, part.priority, part.spec.labels) == ("g", 7, ["pets"])
    end(core, "g.1", "one")
    assert core.status("g") == "in_progress"
    commands = end(core, "g.2", "two")
    assert answers(commands) == [("g", "task.completed", "replies-of-ana")]
    assert core.task("g").result == {"results": {"atlas": "one", "boreas": "two"}}


def test_a_group_waits_for_what_it_depends_on_and_its_parts_build_on_it(core: Core) -> None:
    begin(core, submitted("first", assignee="clio"))
    core.handle(submitted("g", mode="all", assignees=["atlas"], depends_on=["first"]))
    assert core.status("g") == "blocked"
    assert assignments(end(core, "first")) == [("g.1", 1, "atlas")]
    assert core.task("g.1").spec.depends_on == ["first"]
    assert core.task("g.1").waiting_on == 0


def test_who_waits_for_a_group_gets_its_result(core: Core) -> None:
    begin(core, submitted("g", mode="all", assignees=["atlas"]), submitted("after", depends_on=["g"], assignee="clio"))
    assert assignments(end(core, "g.1")) == [("after", 1, "clio")]


def test_a_group_whose_results_are_too_large_together_fails_and_its_parts_keep_theirs(core: Core) -> None:
    begin(core, submitted("g", assignees=["atlas", "clio"], mode="all"))
    for part in ("g.1", "g.2"):
        end(core, part, "x" * 5_000_000)
    group = core.database.tasks["g"]
    assert (group.status, group.result) == (Status.FAILED, None)
    assert group.error is not None
    assert (group.error.type, group.error.retryable) == ("result_too_large", False)
    assert group.error.message.startswith("the results of its parts have 10,000,0")
    assert group.error.message.endswith("Each is the result of its part: g.1 to g.2")
    assert core.database.tasks["g.1"].result == "x" * 5_000_000


def test_a_group_goes_on_with_another_coordinator(core: Core) -> None:
    begin(core, vote())
    end(core, "v.1", ballot("yes"))
    core.restart()
    end(core, "v.2", ballot("yes"))
    assert core.task("v").result["choice"] == "yes"  # type: ignore[index,call-overload]


def test_what_is_no_longer_needed_is_stopped(core: Core) -> None:
    begin(core, vote())
    end(core, "v.1", ballot("yes"))
    commands = end(core, "v.2", ballot("yes"))
    assert stops(commands) == [("v.3", 1, "clio/i1")]
    assert statuses(core) == {"v": "completed", "v.1": "completed", "v.2": "completed", "v.3": "cancelled"}
    assert core.task("v.3").history[-1].what == "cancelled while in progress at clio: v ended without this part"


def test_parts_end_with_a_group_that_is_cancelled(core: Core) -> None:
    begin(core, vote())
    assert len(stops(core.handle(cancelled("v")))) == 3
    assert set(statuses(core).values()) == {"cancelled"}


def test_any_is_one_task_for_the_first_that_is_free(core: Core) -> None:
    begin(core, submitted("busy", assignee="atlas"))
    core.handle(submitted("g", mode="any", assignees=["atlas", "boreas"]))
    assert core.task("g").llm == "boreas"
    core.handle(submitted("h", mode="any", assignees=["atlas", "boreas"]))
    assert core.status("h") == "pending"
    assert assignments(end(core, "busy")) == [("h", 1, "atlas")]


def test_nobody_who_is_excluded_gets_a_task(core: Core) -> None:
    given = begin(core, *(submitted(f"t{n}", excluded=["boreas"], skills=["think"]) for n in range(3)))
    assert {llm for _, _, llm in given} == {"atlas", "clio"}


def test_the_author_of_what_is_reviewed_is_never_the_reviewer() -> None:
    core = Core()
    core.handle(seen("rex"), submitted("g", reviewer="rex"))
    assert core.status("g.1") == "pending"
    assert assignments(core.handle(seen("atlas"))) == [("g.1", 1, "atlas")]


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_silent_part_does_not_hold_a_group_beyond_its_time(core: Core) -> None:
    begin(core, submitted("g", mode="all", assignees=["atlas", "boreas"], timeout=8.0))
    end(core, "g.1", "one")
    core.tick(at=7.9)
    assert core.status("g") == "in_progress"
    core.tick(at=8.0)
    assert core.task("g").result == {"results": {"atlas": "one"}, "failed": {"boreas": "no answer yet"}}
    assert core.status("g.2") == "cancelled"


def test_the_time_of_a_group_goes_on_under_another_coordinator(core: Core) -> None:
    begin(core, submitted("g", mode="relay", assignees=["atlas", "boreas"], timeout=8.0))
    core.restart(at=5)
    core.tick(at=8)
    assert core.task("g").error is not None
    assert statuses(core) == {"g": "failed", "g.1": "cancelled"}


def test_a_group_without_a_timeout_lasts_a_day_at_most(core: Core) -> None:
    core.handle(submitted("g", mode="all", assignees=["unheard-of"], force=True))
    core.tick(at=86_399)
    assert core.status("g") == "in_progress"
    core.tick(at=86_400)
    assert core.status("g") == "failed"


def test_a_member_whose_worker_dies_is_outvoted(core: Core) -> None:
    begin(core, vote(timeout=60.0))
    core.handle(seen("atlas", tasks=[("v.1", 1)]), seen("boreas", tasks=[("v.2", 1)]), at=LEASE - 1)
    core.tick(at=LEASE)
    assert core.status("v.3") == "pending"
    end(core, "v.1", ballot("no"))
    end(core, "v.2", ballot("no"))
    assert statuses(core) == {"v": "completed", "v.1": "completed", "v.2": "completed", "v.3": "cancelled"}


# -- a person --------------------------------------------------------------------------------------------------------


def tie(core: Core) -> list[Command]:
    begin(core, vote(timeout=5.0))
    end(core, "v.1", ballot("yes"))
    end(core, "v.2", ballot("no"))
    return core.handle(failed("v.3", llm="clio", retryable=False))


def test_a_person_decides_a_tie(core: Core) -> None:
    assert ("v", "input_required") in events(tie(core))
    core.tick(at=1000)  # people take their time
    assert refusals(core.handle(answered("v", "perhaps"))) == [Problem("answer", "must be one of: yes, no")]
    commands = core.handle(answered("v", "no"))
    assert ("v", "task.completed", "replies-of-ana") in answers(commands)
    result = core.task("v").result
    assert isinstance(result, dict)
    assert (result["choice"], result["decided_by"]) == ("no", "person")


def test_a_tie_survives_its_coordinator(core: Core) -> None:
    tie(core)
    core.restart()
    core.handle(answered("v", "yes"))
    assert core.status("v") == "completed"


def test_a_tied_vote_may_be_cancelled(core: Core) -> None:
    tie(core)
    core.handle(cancelled("v"))
    assert core.status("v") == "cancelled"


# -- once more -------------------------------------------------------------------------------------------------------


def test_a_retried_group_starts_again_with_new_parts(core: Core) -> None:
    tie(core)
    core.handle(cancelled("v"))
    core.handle(RetryRequested("v"))
    assert core.status("v.2.1") == "assigned"
    core.handle(*(claimed(f"v.2.{n}", llm=llm) for n, llm in enumerate(LLMS, 1)))
    end(core, "v.2.1", ballot("no"))
    end(core, "v.2.2", ballot("no"))
    assert core.status("v") == "completed"


def test_a_group_cancelled_and_retried_in_one_batch_starts_again(core: Core) -> None:
    core.handle(vote(), cancelled("v"), RetryRequested("v"))
    assert statuses(core) == {"v": "in_progress", "v.2.1": "assigned", "v.2.2": "assigned", "v.2.3": "assigned"}
    core.handle(cancelled("v"), RetryRequested("v"))
    assert {core.status(f"v.2.{n}") for n in (1, 2, 3)} == {"cancelled"}
    assert core.task("v.2.1").history[-1].what.endswith("v was retried")
    assert {core.status(f"v.3.{n}") for n in (1, 2, 3)} == {"assigned"}


# -- rounds ----------------------------------------------------------------------------------------------------------


def test_the_rounds_of_a_review_are_in_the_history(core: Core) -> None:
    begin(core, submitted("g", assignee="atlas", reviewer="boreas", skills=["think"]))
    end(core, "g.1", "a draft")
    end(core, "g.2", {"approved": False, "remarks": "too short"})
    end(core, "g.3", "a longer draft")
    end(core, "g.4", {"approved": True, "remarks": ""})
    assert [change.what for change in core.task("g").history] == [
        "round 1: sent back by boreas: too short",
        "round 2: approved by boreas",
    ]
    assert core.task("g").result["result"] == "a longer draft"  # type: ignore[index,call-overload]


# -- what was found --------------------------------------------------------------------------------------------------


def found(core: Core) -> dict[str, float]:
    """What is known of everybody's thinking."""
    quality = {name: llm.learned.quality for name, llm in core.machine.state.llms.items()}
    return {name: known["think"].mean for name, known in quality.items() if known}


def test_what_a_vote_finds_counts_for_the_skills_of_the_task(core: Core) -> None:
    begin(core, vote(skills=["think"]))
    end(core, "v.1", ballot("no"))
    end(core, "v.3", ballot("yes"))
    end(core, "v.2", ballot("yes"))
    assert found(core) == {"atlas": 0.0, "boreas": 1.0, "clio": 1.0}
    core.restart()
    assert found(core) == {"atlas": 0.0, "boreas": 1.0, "clio": 1.0}


def test_what_a_vote_finds_may_be_left_out_of_account() -> None:
    core = Core(learn_quality=False)
    core.handle(*(seen(llm) for llm in LLMS))
    begin(core, vote(skills=["think"]))
    end(core, "v.1", ballot("yes"))
    end(core, "v.2", ballot("yes"))
    assert found(core) == {}


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mode": "all", "assignees": ["atlas", "nobody"]}, "assignees.1"),
        ({"reviewer": "nobody"}, "reviewer"),
        ({"mode": "vote", "assignees": ["atlas"], "vote": Vote(judge="nobody")}, "vote.judge"),
    ],
)
def test_an_unknown_llm_is_refused_unless_forced(core: Core, fields: Any, path: str) -> None:
    [problem] = refusals(core.handle(submitted("g", **fields)))
    assert (problem.path, problem.message.partition(" has ever")[0]) == (path, "no LLM named nobody")
    assert refusals(core.handle(submitted("g", **fields, force=True))) == []


def test_the_names_of_parts_belong_to_their_group(core: Core) -> None:
    begin(core, submitted("g", mode="all", assignees=["atlas"]), submitted("h.5"))
    assert refusals(core.handle(submitted("g.7"))) == [Problem("id", "the parts of g are named so")]
    assert refusals(core.handle(submitted("g.2.1"))) == [Problem("id", "the parts of g are named so")]
    [problem] = refusals(core.handle(submitted("h", mode="all", assignees=["atlas"])))
    assert problem.path == "id"
    assert "there is a task h.5 already" in problem.message
    [problem] = refusals(core.handle(submitted("x" * 57, mode="all", assignees=["atlas"])))
    assert problem == Problem("id", "may have 56 characters, as the parts of the task are named after it")


def test_nobody_else_adds_parts_to_a_group(core: Core) -> None:
    begin(core, submitted("g", mode="all", assignees=["atlas"]))
    [problem] = refusals(core.handle(submitted("more", parent_id="g")))
    assert problem == Problem("parent_id", "g is a task for several LLMs, and makes its parts itself")


def test_a_group_is_not_given_to_one_but_its_parts_may_be_given_to_others(core: Core) -> None:
    core.handle(seen("deimos"))
    begin(core, submitted("busy", assignee="atlas"), submitted("g", mode="all", assignees=["atlas"]))
    [problem] = refusals(core.handle(AssignRequested("g", "boreas", sender=ANA)))
    assert problem == Problem("assignee", "the task is for several LLMs: give its parts to others")
    assert assignments(core.handle(AssignRequested("g.1", "deimos", sender=ANA))) == [("g.1", 1, "deimos")]


def test_a_task_for_any_may_be_given_to_one(core: Core) -> None:
    begin(core, *(submitted(llm, assignee=llm) for llm in LLMS), submitted("g", mode="any", assignees=list(LLMS[:2])))
    core.handle(seen("deimos"))
    assert assignments(core.handle(AssignRequested("g", "deimos"))) == [("g", 1, "deimos")]
    assert (core.task("g").spec.assignees, core.task("g").spec.mode) == ([], None)


def test_a_group_is_not_retried_with_what_contradicts_it(core: Core) -> None:
    begin(core, vote())
    core.handle(cancelled("v"))
    [problem] = refusals(core.handle(RetryRequested("v", changes={"output_schema": {}})))
    assert "a vote with choices has a fixed output schema" in problem.message
