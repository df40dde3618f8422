"""What people change by hand while tasks and LLMs are alive, and what falls due."""

from typing import Any

import pytest

from broker.errors import Problem
from broker.protocol.task_requests import ManageLLM
from broker.timestamps import to_datetime
from coordinator.core.commands import AnnounceTask, AnswerRequest, Command, Refuse, SendDrain
from coordinator.core.events import AssignRequested, ManageRequested, ReportSaved, RetryRequested, UpdateRequested
from tests.support.core_driver import Core, moment
from tests.support.core_events import (
    ANA,
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    left,
    seen,
    stops,
    submitted,
)


@pytest.fixture
def core() -> Core:
    """Two LLMs, atlas and boreas, with one slot each; atlas works on the task `t`."""
    core = Core()
    core.handle(seen("atlas"), seen("boreas"), submitted("t", assignee="atlas"))
    core.handle(claimed("t"))
    return core


def assign(task_id: str, llm: str | None, *, now: bool = False, force: bool = False) -> AssignRequested:
    """Somebody gives a task to an LLM by hand."""
    return AssignRequested(task_id, llm, now, force, ANA)


def update(task_id: str, **changes: Any) -> UpdateRequested:
    """Somebody changes a live task."""
    return UpdateRequested(task_id, changes, ANA)


def manage(llm: str, **wishes: Any) -> ManageRequested:
    """Somebody changes what an LLM may do."""
    return ManageRequested(ManageLLM(llm=llm, **wishes), ANA)


def refusals(commands: list[Command]) -> list[Problem]:
    """Everything that is refused."""
    return [problem for command in commands if isinstance(command, Refuse) for problem in command.problems]


def overdue(commands: list[Command]) -> list[str]:
    """Which tasks are told to be overdue."""
    return [c.view["id"] for c in commands if isinstance(c, AnnounceTask) and c.what == "overdue"]


# -- assigning by hand -----------------------------------------------------------------------------------------------


def test_a_pending_task_goes_to_the_llm_that_it_is_given_to(core: Core) -> None:
    core.handle(seen("boreas", slots=2), submitted("u", skills=["x"]))
    commands = core.handle(assign("u", "boreas"))
    assert assignments(commands) == [("u", 1, "boreas")]
    assert answers(commands) == [("u", "task.accepted", "replies-of-ana")]
    assert core.task("u").history[-1].what == "assigned to boreas"


def test_a_blocked_task_goes_to_the_llm_that_it_is_given_to_once_it_is_ready(core: Core) -> None:
    core.handle(submitted("u", depends_on=["t"]), assign("u", "atlas"))
    assert assignments(core.handle(completed("t"))) == [("u", 1, "atlas")]


def test_every_assignment_by_hand_is_told_to_everybody_even_one_that_moves_nothing(core: Core) -> None:
    core.handle(submitted("u", depends_on=["t"]))
    assert [c.view["assignee"] for c in core.handle(assign("u", "boreas")) if isinstance(c, AnnounceTask)] == ["boreas"]
    assert [c.view.get("assignee") for c in core.handle(assign("t", None)) if isinstance(c, AnnounceTask)] == [None]


def test_an_unclaimed_task_is_moved(core: Core) -> None:
    core.handle(submitted("u", assignee="boreas"), seen("atlas", slots=2))
    commands = core.handle(assign("u", "atlas"))
    assert assignments(commands) == [("u", 2, "atlas")]
    assert [(a.llm, a.outcome) for a in core.task("u").attempts] == [("boreas", "moved")]
    assert stops(core.handle(claimed("u", 1, llm="boreas"))) == [("u", 1, "boreas/i1")]


def test_a_running_task_is_not_moved_unless_that_is_asked_for(core: Core) -> None:
    told = "the task is running at atlas; use `now` to stop it there and move it"
    assert refusals(core.handle(assign("t", "boreas"))) == [Problem("id", told)]
    assert core.task("t").llm == "atlas"


def test_a_running_task_is_stopped_and_moved_when_that_is_asked_for(core: Core) -> None:
    commands = core.handle(assign("t", "boreas", now=True))
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert assignments(commands) == [("t", 2, "boreas")]
    assert core.task("t").starts == 0
    assert assignments(core.handle(submitted("u", assignee="atlas"))) == [("u", 1, "atlas")]


def test_a_task_may_be_left_to_automatic_assignment_again(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas"))
    assert core.status("u") == "pending"
    assert assignments(core.handle(assign("u", None))) == [("u", 1, "boreas")]


def test_a_task_that_is_left_to_automatic_assignment_runs_on_unless_it_is_to_stop_now(core: Core) -> None:
    assert stops(core.handle(assign("t", None))) == []
    commands = core.handle(seen("boreas", slots=2), assign("t", None, now=True))
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert [(task_id, attempt) for task_id, attempt, _ in assignments(commands)] == [("t", 2)]
    assert (core.task("t").starts, core.task("t").attempts[0].outcome) == (0, "moved")


def test_a_task_is_given_to_an_unknown_llm_only_by_force(core: Core) -> None:
    [problem] = refusals(core.handle(submitted("u", assignee="atlas"), assign("u", "clio")))
    assert problem.message == "no LLM named clio has ever connected; use `force` to wait for this LLM"
    [problem] = refusals(core.handle(assign("u", "atlass")))
    assert problem.message.startswith("no LLM named atlass has ever connected; did you mean atlas? ")
    assert refusals(core.handle(assign("u", "clio", force=True))) == []
    assert core.status("u") == "pending"
    assert assignments(core.handle(seen("clio"))) == [("u", 1, "clio")]


def test_a_task_may_be_given_to_an_llm_that_is_away(core: Core) -> None:
    core.handle(left("boreas"), submitted("u"))
    core.handle(assign("u", "boreas"))
    core.handle(completed("t"))
    assert core.status("u") == "pending"
    assert assignments(core.handle(seen("boreas"))) == [("u", 1, "boreas")]


@pytest.mark.parametrize("request_", [assign("t", "boreas"), update("t", priority=9)])
def test_a_task_that_is_over_cannot_be_changed(core: Core, request_: Any) -> None:
    core.handle(completed("t"))
    assert refusals(core.handle(request_)) == [Problem("id", "the task is already completed")]


# -- updates ---------------------------------------------------------------------------------------------------------


def test_a_more_urgent_task_overtakes_the_others(core: Core) -> None:
    core.handle(*(submitted(f"u{n}", assignee="atlas") for n in range(3)))
    core.handle(update("u2", priority=9), update("u1", due=to_datetime(moment(50))))
    assert core.task("u2").priority == 9
    order = []
    for task_id in ("t", "u2", "u1"):
        order += assignments(core.handle(completed(task_id)))
    assert [task_id for task_id, _, _ in order] == ["u2", "u1", "u0"]


def test_tasks_below_the_window_can_be_made_urgent() -> None:
    core = Core(window=4)
    core.handle(*(submitted(f"u{n:02}") for n in range(40)))
    core.handle(update("u39", priority=9), update("u00", priority=0))
    core.handle(seen("atlas", slots=3))
    assert sorted(task.id for task in core.database.in_hand()) == ["u01", "u02", "u39"]
    for _ in range(60):
        core.handle(*(completed(task.id) for task in core.database.in_hand()))
    assert {task.status.value for task in core.database.tasks.values()} == {"completed"}


def test_a_retry_may_change_what_is_asked_for(core: Core) -> None:
    core.handle(cancelled("t"))
    core.handle(RetryRequested("t", ANA, {"assignee": None, "skills": ["x"], "max_attempts": 1}))
    assert core.status("t") == "pending"
    assert assignments(core.handle(seen("boreas", skills=["x"]))) == [("t", 2, "boreas")]
    assert (
        core.task("t").history[-1].what == "retried after it was cancelled, with changed assignee, max_attempts, skills"
    )


def test_only_what_can_be_forced_speaks_of_force(core: Core) -> None:
    core.handle(cancelled("t"))
    for command in (RetryRequested("t", ANA, {"assignee": "clio"}), manage("clio", paused=True)):
        [problem] = refusals(core.handle(command))
        assert problem.message == "no LLM named clio has ever connected"


def test_what_is_taken_away_is_told_in_words(core: Core) -> None:
    core.handle(UpdateRequested("t", {"due": None, "labels": []}, ANA))
    assert core.task("t").history[-1].what == "changed: due = none, labels = none"


# -- LLMs ------------------------------------------------------------------------------------------------------------


def test_a_paused_llm_gets_nothing_until_it_is_resumed(core: Core) -> None:
    commands = core.handle(manage("boreas", paused=True))
    assert ("boreas", "paused") in events(commands)
    [answer] = [command for command in commands if isinstance(command, AnswerRequest)]
    assert (answer.reply_to, answer.view["state"]) == ("replies-of-ana", "paused")
    assert assignments(core.handle(submitted("u"))) == []
    assert assignments(core.handle(seen("boreas"))) == []
    assert assignments(core.handle(manage("boreas", paused=False))) == [("u", 1, "boreas")]


def test_a_paused_llm_finishes_what_it_has(core: Core) -> None:
    core.handle(manage("atlas", paused=True))
    assert ("t", "completed") in events(core.handle(completed("t")))


def test_an_llm_stays_paused_when_another_coordinator_takes_over(core: Core) -> None:
    core.handle(manage("boreas", paused=True, slots=1, skills={"x": 1.0}))
    core.restart()
    assert assignments(core.handle(submitted("u"), seen("boreas"))) == []


def test_an_llm_that_is_offline_can_be_forgotten(core: Core) -> None:
    core.handle(seen("boreas", skills=["python"]), manage("boreas", paused=True), left("boreas"))
    [answer] = [it for it in core.handle(manage("boreas", forget=True)) if isinstance(it, AnswerRequest)]
    assert (answer.type, answer.view["name"], answer.view["state"]) == ("llm.accepted", "boreas", "offline")
    assert set(core.machine.state.llms) == {llm.name for llm in core.database.llms()} == {"atlas"}
    assert refusals(core.handle(manage("boreas", paused=False)))[0].path == "llm"
    core.restart()
    assert assignments(core.handle(submitted("u", skills=["python"]))) == []
    assert assignments(core.handle(seen("boreas", skills=["python"]))) == [("u", 1, "boreas")], "it is a new one"


def test_an_llm_that_is_there_or_has_a_task_is_not_forgotten(core: Core) -> None:
    for name in ("atlas", "boreas"):
        [problem] = refusals(core.handle(manage(name, forget=True)))
        assert problem == Problem("llm", f"{name} is online: only an LLM that is offline can be forgotten")
    assert {llm.name for llm in core.database.llms()} == {"atlas", "boreas"}


def test_a_forgotten_llm_comes_back_in_the_same_batch(core: Core) -> None:
    core.handle(left("boreas"))
    core.handle(manage("boreas", forget=True), seen("boreas"))
    assert {llm.name for llm in core.database.llms()} == {"atlas", "boreas"}
    assert assignments(core.handle(submitted("u"))) == [("u", 1, "boreas")]


def test_a_long_change_is_cut_in_the_history(core: Core) -> None:
    core.handle(update("t", metadata={"m": "m" * 100_000}))
    assert len(core.database.tasks["t"].history[-1].what) == 2_100


def test_slots_can_be_limited_and_given_back(core: Core) -> None:
    core.handle(seen("boreas", slots=3), manage("boreas", slots=1))
    assert len(assignments(core.handle(*(submitted(f"u{n}") for n in range(4))))) == 1
    assert len(assignments(core.handle(manage("boreas", slots=2)))) == 1
    assert len(assignments(core.handle(manage("boreas", slots=None)))) == 1


def test_skills_can_be_given_and_taken_back(core: Core) -> None:
    core.handle(manage("boreas", skills={"x": 1.0}), submitted("u", skills=["x"]))
    assert core.task("u").llm == "boreas"
    core.handle(completed("u", llm="boreas"), manage("boreas", skills=None), submitted("v", skills=["x"]))
    assert core.status("v") == "pending"


def test_a_drained_llm_receives_the_order_and_gets_no_tasks(core: Core) -> None:
    commands = core.handle(manage("boreas", drain=True), submitted("u"))
    assert [command for command in commands if isinstance(command, SendDrain)] == [SendDrain("boreas", "i1")]
    assert ("boreas", "draining") in events(commands)
    assert assignments(commands) == []


def test_an_unknown_llm_cannot_be_managed(core: Core) -> None:
    [problem] = refusals(core.handle(manage("clio", paused=True)))
    assert problem.path == "llm"


# -- due dates -------------------------------------------------------------------------------------------------------


def test_an_overdue_task_is_reported_once_and_marked(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas", due=5), at=0)
    assert overdue(core.tick(at=4.9)) == []
    assert overdue(core.tick(at=5)) == ["u"]
    assert core.task("u").overdue
    assert overdue(core.tick(at=6)) == []
    core.restart()
    assert overdue(core.tick(at=7)) == []


def test_a_task_that_is_done_in_time_is_not_overdue(core: Core) -> None:
    core.handle(update("t", due=to_datetime(moment(5))), at=0)
    core.handle(completed("t"), at=4)
    assert overdue(core.tick(at=5)) == []


def test_a_due_date_in_the_past_is_reported_at_once(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas", due=-5), at=0)
    assert overdue(core.tick(at=0.1)) == ["u"]


def test_due_dates_are_watched_when_another_coordinator_takes_over(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas", due=5), at=0)
    core.restart(at=1)
    assert overdue(core.tick(at=5)) == ["u"]


def test_a_postponed_due_date_counts_again(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas", due=3), at=0)
    core.tick(at=3)
    core.handle(update("u", due=to_datetime(moment(6))))
    assert not core.task("u").overdue
    assert overdue(core.tick(at=5.9)) == []
    assert overdue(core.tick(at=6)) == ["u"]


def test_the_due_date_of_a_task_that_is_retried_is_watched_again(core: Core) -> None:
    core.handle(submitted("u", assignee="atlas", due=5), cancelled("u"), at=0)
    assert overdue(core.handle(seen("atlas", tasks=[("t", 1)]), at=5)) == []
    core.handle(RetryRequested("u", ANA), at=6)
    assert overdue(core.tick(at=6)) == ["u"]


def test_tasks_fall_due_in_portions() -> None:
    core = Core(woken_at_once=2)
    core.handle(*(submitted(f"u{n}", due=1) for n in range(5)), at=0)
    assert [len(overdue(core.tick(at=1))) for _ in range(4)] == [2, 2, 1, 0]


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_saved_report_is_stored_and_confirmed_to_its_sender(core: Core) -> None:
    definition = {"group_by": ["llm"], "metrics": ["tasks"]}
    [answer] = core.handle(ReportSaved("mine", definition, ANA))
    view = {"name": "mine", **definition}
    assert answer == AnswerRequest("report.accepted", ANA.reply_to or "", ANA.correlation_id, view)
