"""Facts in, commands out: what the machine makes of submissions, claims, results, silence and time."""

from dataclasses import replace

import pytest

from broker.errors import Problem
from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure, Usage
from coordinator.core.commands import AnswerSubmitter, Refuse
from coordinator.core.events import BeingChecked, Sender, UpdateRequested
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.tasks.attempts import MOST_UNCLAIMED
from coordinator.core.tasks.task import view
from tests.support.core_driver import (
    ANA,
    LEASE,
    Core,
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    gave_up,
    left,
    moment,
    progressed,
    retried,
    seen,
    stops,
    submitted,
)

BEN = Sender("ben", "replies-of-ben", "c-2")


@pytest.fixture
def core() -> Core:
    """Nobody is there yet."""
    return Core()


@pytest.fixture
def atlas(core: Core) -> Core:
    """One LLM, atlas, with one slot."""
    core.handle(seen("atlas"))
    return core


@pytest.fixture
def running(atlas: Core) -> Core:
    """atlas works on the task `t`."""
    atlas.handle(submitted("t"))
    atlas.handle(claimed("t"))
    return atlas


# -- submission ------------------------------------------------------------------------------------------------------


def test_a_task_waits_when_no_llm_is_there(core: Core) -> None:
    commands = core.handle(submitted("t"))
    assert events(commands) == [("t", "pending")]
    assert answers(commands) == [("t", "task.accepted", "replies-of-ana")]
    assert core.status("t") == "pending"


def test_a_task_is_assigned_at_once_to_an_llm_with_a_free_slot(atlas: Core) -> None:
    commands = atlas.handle(submitted("t"))
    assert assignments(commands) == [("t", 1, "atlas")]
    assert events(commands) == [("t", "assigned")]  # pending was never a fact
    task = atlas.task("t")
    assert (task.llm, task.attempt, task.why) == ("atlas", 1, "the only LLM online")


def test_a_waiting_task_is_assigned_when_an_llm_arrives(core: Core) -> None:
    core.handle(submitted("t"))
    commands = core.handle(seen("atlas"))
    assert events(commands) == [("atlas", "online"), ("t", "assigned")]


def test_a_submission_without_an_address_is_not_answered(core: Core) -> None:
    assert answers(core.handle(submitted("t", sender=Sender()))) == []


def test_an_answer_carries_the_correlation_id_and_the_task_as_it_stood(core: Core) -> None:
    [answer] = [c for c in core.handle(submitted("t", priority=7)) if isinstance(c, AnswerSubmitter)]
    assert answer.correlation_id == "c-1"
    assert answer.view["status"] == "pending"
    assert answer.view["priority"] == 7
    assert answer.view["submitted_by"] == "ana"


def test_the_same_id_again_changes_nothing_and_is_answered_at_the_newest_address(running: Core) -> None:
    commands = running.handle(submitted("t", sender=BEN))
    assert assignments(commands) == []
    assert events(commands) == []
    assert answers(commands) == [("t", "task.accepted", "replies-of-ben")]
    assert answers(running.handle(completed("t"))) == [("t", "task.completed", "replies-of-ben")]


def test_the_same_id_again_without_an_address_leaves_the_first_address(running: Core) -> None:
    assert running.handle(submitted("t", sender=Sender())) == [
        AnswerSubmitter("task.accepted", "replies-of-ana", "c-1", view(running.task("t")), known=True)
    ]
    assert answers(running.handle(completed("t"))) == [("t", "task.completed", "replies-of-ana")]


def test_the_id_of_a_finished_task_is_answered_with_its_result(running: Core) -> None:
    running.handle(completed("t", result=42))
    commands = running.handle(submitted("t", sender=BEN))
    assert answers(commands) == [("t", "task.accepted", "replies-of-ben"), ("t", "task.completed", "replies-of-ben")]
    assert [c.view["result"] for c in commands if isinstance(c, AnswerSubmitter)] == [42, 42]
    assert assignments(commands) == []


def test_the_same_id_twice_in_one_batch_makes_one_task(atlas: Core) -> None:
    commands = atlas.handle(submitted("t"), submitted("t", sender=BEN))
    assert assignments(commands) == [("t", 1, "atlas")]
    assert [kind for _, kind, _ in answers(commands)] == ["task.accepted", "task.accepted"]


# -- dependencies ----------------------------------------------------------------------------------------------------


def test_a_task_waits_for_what_it_depends_on(running: Core) -> None:
    commands = running.handle(submitted("next", depends_on=["t"]))
    assert events(commands) == [("next", "blocked")]
    assert running.task("next").waiting_on == 1
    commands = running.handle(completed("t"))
    assert events(commands) == [("t", "completed"), ("next", "assigned")]


def test_a_task_waits_for_one_that_is_not_known_yet(atlas: Core) -> None:
    atlas.handle(submitted("next", depends_on=["t"]))
    assert assignments(atlas.handle(submitted("t"))) == [("t", 1, "atlas")]
    atlas.handle(claimed("t"))
    assert assignments(atlas.handle(completed("t"))) == [("next", 1, "atlas")]


def test_a_task_waits_for_all_that_it_depends_on(core: Core) -> None:
    core.handle(seen("atlas", slots=3), submitted("a"), submitted("b"), submitted("c", depends_on=["a", "b"]))
    assert assignments(core.handle(completed("a"))) == []
    assert assignments(core.handle(completed("b"))) == [("c", 1, "atlas")]


def test_a_dependency_named_twice_counts_once(core: Core) -> None:
    core.handle(seen("atlas", slots=2), submitted("a"), submitted("b", depends_on=["a", "a"]))
    assert assignments(core.handle(completed("a"))) == [("b", 1, "atlas")]


def test_a_task_does_not_wait_for_one_that_is_completed(running: Core) -> None:
    running.handle(completed("t"))
    assert assignments(running.handle(submitted("next", depends_on=["t"]))) == [("next", 1, "atlas")]


def test_a_task_fails_when_what_it_depends_on_has_failed(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"]), submitted("last", depends_on=["next"]))
    commands = running.handle(failed("t", retryable=False))
    assert events(commands) == [("t", "failed"), ("next", "failed"), ("last", "failed")]
    assert running.task("next").error == Failure(
        type="dependency_failed", message="t, which this task depends on, failed", retryable=False
    )
    assert answers(commands)[-1] == ("last", "task.failed", "replies-of-ana")


def test_a_task_fails_when_what_it_depends_on_is_cancelled(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"]))
    running.handle(cancelled("t"))
    assert running.status("next") == "failed"


def test_a_task_that_does_not_mind_runs_after_a_failed_dependency(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"], on_dependency_failure="run"))
    assert assignments(running.handle(failed("t", retryable=False))) == [("next", 1, "atlas")]


@pytest.mark.parametrize(("on_failure", "status"), [("fail", "failed"), ("run", "assigned")])
def test_a_dependency_may_have_failed_long_before(running: Core, on_failure: str, status: str) -> None:
    running.handle(failed("t", retryable=False))
    commands = running.handle(submitted("next", depends_on=["t"], on_dependency_failure=on_failure))
    assert running.status("next") == status
    assert answers(commands)[0] == ("next", "task.accepted", "replies-of-ana")


def test_a_task_that_failed_early_does_not_start_when_the_rest_is_done(core: Core) -> None:
    core.handle(seen("atlas", slots=3), submitted("a"), submitted("b"), submitted("c", depends_on=["a", "b"]))
    core.handle(failed("a", retryable=False))
    assert events(core.handle(completed("b"))) == [("b", "completed")]
    assert core.status("c") == "failed"


@pytest.mark.parametrize("batches", ["one", "two", "three"])
def test_a_circle_is_refused_by_name(core: Core, batches: str) -> None:
    a, b = submitted("a", depends_on=["c"]), submitted("b", depends_on=["a"])
    c = replace(submitted("c", depends_on=["b"]), origin=3)
    match batches:
        case "one":
            commands = core.handle(a, b, c)
        case "two":
            core.handle(a)
            commands = core.handle(b, c)
        case _:
            core.handle(a)
            core.handle(b)
            commands = core.handle(c)
    [refusal] = [command for command in commands if isinstance(command, Refuse)]
    assert refusal.problems == (Problem("depends_on", "a cycle: c -> b -> a -> c"),)
    assert (refusal.reply_to, refusal.correlation_id) == ("replies-of-ana", "c-1")
    assert refusal.origin == 3
    assert "c" not in core.database.tasks


def test_a_circle_over_stored_and_new_tasks_is_refused(core: Core) -> None:
    core.handle(submitted("stored", depends_on=["last"]))
    commands = core.handle(submitted("first", depends_on=["stored"]), submitted("last", depends_on=["first"]))
    [refusal] = [command for command in commands if isinstance(command, Refuse)]
    assert refusal.problems == (Problem("depends_on", "a cycle: last -> first -> stored -> last"),)


def test_a_diamond_is_no_circle(core: Core) -> None:
    core.handle(submitted("d", depends_on=["b", "c"]))
    commands = core.handle(
        submitted("b", depends_on=["a"]), submitted("c", depends_on=["a"]), submitted("a"), seen("atlas", slots=4)
    )
    assert not [command for command in commands if isinstance(command, Refuse)]
    assert assignments(core.handle(completed("a"))) == [("b", 1, "atlas"), ("c", 1, "atlas")]
    core.handle(completed("b"))
    assert assignments(core.handle(completed("c"))) == [("d", 1, "atlas")]


def test_a_dependency_that_is_retried_before_its_end_was_told_keeps_its_dependents_waiting(core: Core) -> None:
    core.handle(seen("atlas", slots=2), submitted("a"), submitted("b", depends_on=["a"]))
    assert events(core.handle(cancelled("a"), retried("a")))[-1] == ("a", "assigned")
    assert core.task("b").waiting_on == 1
    assert core.status("b") == "blocked"
    assert assignments(core.handle(completed("a", 2))) == [("b", 1, "atlas")]


def test_a_dependent_that_ends_twice_in_a_batch_is_counted_once(core: Core) -> None:
    core.handle(submitted("a"), submitted("b", depends_on=["a"]))
    core.handle(submitted("other"), submitted("c", depends_on=["b", "other"], on_dependency_failure="run"))
    core.handle(cancelled("b"), retried("b"), cancelled("a"))
    assert core.status("b") == "failed"
    assert core.task("c").waiting_on == 1


# -- time and order --------------------------------------------------------------------------------------------------


def test_a_task_is_not_ready_before_its_time(atlas: Core) -> None:
    commands = atlas.handle(submitted("t", not_before=5), at=0)
    assert events(commands) == [("t", "blocked")]
    assert assignments(atlas.tick(at=4.9)) == []
    assert assignments(atlas.tick(at=5)) == [("t", 1, "atlas")]


def test_a_task_whose_time_has_passed_is_ready_at_once(atlas: Core) -> None:
    assert assignments(atlas.handle(submitted("t", not_before=-1e9))) == [("t", 1, "atlas")]


def test_a_task_whose_dependencies_end_early_still_waits_for_its_time(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"], not_before=5), at=0)
    running.handle(completed("t"), at=1)
    assert running.status("next") == "blocked"
    assert assignments(running.tick(at=5)) == [("next", 1, "atlas")]


def test_tasks_wake_in_portions(core: Core) -> None:
    core = Core(woken_at_once=2)
    core.handle(*(submitted(f"t{n}", not_before=1) for n in range(5)), at=0)
    assert [len(events(core.tick(at=1))) for _ in range(4)] == [2, 2, 1, 0]


def test_the_most_urgent_task_goes_first(core: Core) -> None:
    core.handle(
        submitted("old"),
        submitted("young"),
        submitted("due-late", due=300),
        submitted("due-soon", due=200),
        submitted("low", priority=1, due=100),
        submitted("high", priority=9),
    )
    commands = core.handle(seen("atlas", slots=6))
    assert [task_id for task_id, _, _ in assignments(commands)] == [
        "high", "due-soon", "due-late", "old", "young", "low",
    ]  # fmt: skip


def test_a_task_that_a_result_releases_may_take_the_slot_that_it_frees(running: Core) -> None:
    running.handle(submitted("waiting"), submitted("urgent", priority=9, depends_on=["t"]))
    assert assignments(running.handle(completed("t"))) == [("urgent", 1, "atlas")]


def test_the_most_urgent_task_goes_first_whatever_skills_it_needs(core: Core) -> None:
    core.handle(submitted("a", skills=["x"]), submitted("b", skills=["y"], priority=9), submitted("c", skills=["x"]))
    commands = core.handle(seen("atlas", skills=["x", "y"], slots=2))
    assert [task_id for task_id, _, _ in assignments(commands)] == ["b", "a"]


# -- assignment ------------------------------------------------------------------------------------------------------


def test_an_llm_gets_no_more_than_all_its_replicas_have_slots_for(core: Core) -> None:
    core.handle(seen("atlas", "i1", slots=2), seen("atlas", "i2", slots=1))
    commands = core.handle(*(submitted(f"t{n}") for n in range(5)))
    assert [task_id for task_id, _, _ in assignments(commands)] == ["t0", "t1", "t2"]
    core.handle(claimed("t0", instance="i1"), claimed("t1", instance="i1"), claimed("t2", instance="i2"))
    assert assignments(core.handle(completed("t2", instance="i2"))) == [("t3", 1, "atlas")]


def test_replicas_may_share_the_work_unevenly(core: Core) -> None:
    core.handle(seen("atlas", "i1", slots=1), seen("atlas", "i2", slots=1), submitted("a"), submitted("b"))
    commands = core.handle(claimed("a", instance="i1"), claimed("b", instance="i1"), submitted("c"))
    assert assignments(commands) == []


def test_a_task_goes_only_to_an_llm_with_all_its_skills(core: Core) -> None:
    core.handle(seen("atlas", skills=["python"]), seen("boreas", skills=["python", "review"]))
    assert assignments(core.handle(submitted("t", skills=["review", "python"]))) == [("t", 1, "boreas")]


def test_a_task_waits_until_an_llm_learns_its_skill(core: Core) -> None:
    core.handle(seen("atlas", skills=["python"]), submitted("t", skills=["review"]))
    assert assignments(core.handle(seen("atlas", skills=["python", "review"]))) == [("t", 1, "atlas")]


def test_an_llm_that_lost_a_skill_gets_no_such_task(core: Core) -> None:
    core.handle(seen("atlas", skills=["review"]), submitted("first", skills=["review"]))
    core.handle(claimed("first"), submitted("second", skills=["review"]))
    core.handle(seen("atlas", tasks=[("first", 1)]))
    assert assignments(core.handle(completed("first"))) == []


def test_a_task_assigned_by_hand_waits_for_that_llm(core: Core) -> None:
    core.handle(seen("boreas", skills=["python"]), submitted("t", assignee="atlas", force=True, skills=["python"]))
    assert core.status("t") == "pending"
    assert assignments(core.handle(seen("atlas"))) == [("t", 1, "atlas")]
    assert core.task("t").why == "assigned by hand"


def test_the_llm_with_the_least_expected_wait_gets_the_task(core: Core) -> None:
    core.handle(seen("atlas", slots=2), seen("boreas", slots=2), submitted("a"), submitted("b"))
    slow, fast = (core.task(id_).llm or "" for id_ in ("a", "b"))
    core.handle(completed("a", llm=slow, duration=100), completed("b", llm=fast, duration=1))
    core.handle(submitted("c", assignee=slow, force=True), submitted("d", assignee=fast, force=True))
    assert assignments(core.handle(submitted("e"))) == [("e", 1, fast)]
    assert core.task("e").why.startswith(f"{fast}: expected finish in 1.0 s (1 of 2 slots free); then {slow} ")


def test_a_draining_instance_gets_nothing_and_keeps_what_it_has(running: Core) -> None:
    commands = running.handle(seen("atlas", draining=True, tasks=[("t", 1)]), submitted("next"))
    assert events(commands) == [("atlas", "draining"), ("next", "pending")]
    assert events(running.handle(completed("t"))) == [("t", "completed")]
    assert assignments(running.handle(seen("atlas"))) == [("next", 1, "atlas")]


def test_what_no_instance_has_claimed_goes_back_when_all_of_them_drain(atlas: Core) -> None:
    atlas.handle(seen("atlas", "i2"), submitted("t"), submitted("u"))
    atlas.handle(seen("atlas", "i1", draining=True))
    assert atlas.status("t") == "assigned"
    atlas.handle(seen("atlas", "i2", draining=True, tasks=[("u", 1)]))
    assert (atlas.status("t"), atlas.status("u")) == ("pending", "assigned")
    assert atlas.task("t").attempts[0].error.message == "its instances take nothing new (attempt 1 at atlas)"
    assert events(atlas.handle(claimed("u", instance="i2"))) == [("u", "in_progress")]


def test_a_task_that_is_never_taken_up_fails_in_the_end(atlas: Core) -> None:
    atlas.handle(submitted("t", max_attempts=3))
    for second in range(0, 200, 4):
        atlas.handle(seen("atlas"), at=second)
    task = atlas.task("t")
    assert task.status == "failed"
    assert [attempt.outcome for attempt in task.attempts] == ["unclaimed"] * MOST_UNCLAIMED
    assert task.error is not None
    assert task.error.message == "nobody claimed it (attempt 10 at atlas)"
    atlas.handle(retried("t"))
    atlas.handle(seen("atlas"), at=204)
    atlas.handle(seen("atlas"), at=204 + LEASE)
    assert atlas.status("t") == "assigned", "a retry gives it all its attempts again"


# -- claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_starts_the_task(atlas: Core) -> None:
    atlas.handle(submitted("t"), at=1)
    commands = atlas.handle(claimed("t"), at=2)
    assert events(commands) == [("t", "in_progress")]
    task = atlas.task("t")
    assert (task.instance, task.started_at, task.starts) == ("i1", moment(2), 1)


def test_the_same_claim_again_changes_nothing(running: Core) -> None:
    assert running.handle(claimed("t")) == []
    assert running.task("t").starts == 1


def test_a_second_instance_that_claims_the_same_attempt_is_stopped(running: Core) -> None:
    assert stops(running.handle(claimed("t", instance="i2"))) == [("t", 1, "atlas/i2")]
    assert running.task("t").instance == "i1"


def test_a_claim_by_another_llm_is_stopped(atlas: Core) -> None:
    atlas.handle(submitted("t"))
    assert stops(atlas.handle(claimed("t", llm="boreas"))) == [("t", 1, "boreas/i1")]
    assert atlas.status("t") == "assigned"


def test_a_claim_of_an_attempt_that_is_over_is_stopped(atlas: Core) -> None:
    atlas.handle(submitted("t"), at=0)
    atlas.handle(seen("atlas"), at=9)
    assert assignments(atlas.tick(at=LEASE)) == [("t", 2, "atlas")]
    assert stops(atlas.handle(claimed("t", 1))) == [("t", 1, "atlas/i1")]
    assert stops(atlas.handle(claimed("t", 2))) == []


def test_a_claim_of_a_task_that_nobody_knows_is_stopped(core: Core) -> None:
    assert stops(core.handle(claimed("nothing"))) == [("nothing", 1, "atlas/i1")]


def test_a_claim_of_a_cancelled_task_is_stopped(atlas: Core) -> None:
    atlas.handle(submitted("t"))
    assert stops(atlas.handle(cancelled("t"))) == []
    assert stops(atlas.handle(claimed("t"))) == [("t", 1, "atlas/i1")]
    assert atlas.handle(gave_up("t")) == []
    assert [change.what for change in atlas.task("t").history] == ["cancelled while assigned at atlas"]


# -- results ---------------------------------------------------------------------------------------------------------


def test_a_result_completes_the_task(running: Core) -> None:
    commands = running.handle(completed("t", result={"answer": 42}, duration=1.5, usage=Usage(input_tokens=7)), at=3)
    assert events(commands) == [("t", "completed")]
    assert answers(commands) == [("t", "task.completed", "replies-of-ana")]
    task = running.task("t")
    assert task.result == {"answer": 42}
    assert task.finished_at == moment(3)
    [attempt] = task.attempts
    assert (attempt.outcome, attempt.duration, attempt.usage) == ("completed", 1_500_000, Usage(input_tokens=7))


def test_a_result_frees_the_slot(running: Core) -> None:
    running.handle(submitted("next"))
    assert assignments(running.handle(completed("t"))) == [("next", 1, "atlas")]


def test_a_result_whose_claim_was_lost_counts(atlas: Core) -> None:
    atlas.handle(submitted("t"))
    assert events(atlas.handle(completed("t"))) == [("t", "completed")]
    assert atlas.task("t").starts == 1


def test_the_same_result_again_changes_nothing(running: Core) -> None:
    running.handle(completed("t"))
    before = view(running.task("t"))
    assert running.handle(completed("t")) == []
    assert view(running.task("t")) == before


def test_a_run_that_is_said_to_have_lasted_for_ever_is_kept_within_bounds(running: Core) -> None:
    running.handle(completed("t", duration=1e308))
    assert 0 < (running.task("t").duration or 0) < 2**62


def test_a_failed_attempt_is_tried_again_after_a_pause_that_doubles(running: Core) -> None:
    commands = running.handle(failed("t"), at=0)
    assert events(commands) == [("t", "blocked")]
    assert assignments(running.tick(at=0.9)) == []
    assert assignments(running.tick(at=1)) == [("t", 2, "atlas")]
    running.handle(claimed("t", 2))
    running.handle(failed("t", 2), at=2)
    assert assignments(running.tick(at=3.9)) == []
    assert assignments(running.tick(at=4)) == [("t", 3, "atlas")]
    running.handle(claimed("t", 3))
    commands = running.handle(failed("t", 3), at=5)
    assert events(commands) == [("t", "failed")]
    assert answers(commands) == [("t", "task.failed", "replies-of-ana")]
    assert [attempt.outcome for attempt in running.task("t").attempts] == ["failed"] * 3
    assert running.task("t").error == Failure(type="overloaded", message="try later")


def test_a_pause_is_never_longer_than_a_minute(atlas: Core) -> None:
    atlas.handle(submitted("t", max_attempts=100))
    at = 0.0
    for attempt in range(1, 10):
        atlas.handle(seen("atlas"), claimed("t", attempt), failed("t", attempt), at=at)
        at += 60
        assert assignments(atlas.handle(seen("atlas"), at=at)) == [("t", attempt + 1, "atlas")]


def test_a_failure_that_no_attempt_can_mend_is_final(running: Core) -> None:
    assert events(running.handle(failed("t", retryable=False))) == [("t", "failed")]
    assert len(running.task("t").attempts) == 1


def test_a_task_with_one_attempt_fails_with_it(atlas: Core) -> None:
    atlas.handle(submitted("t", max_attempts=1))
    assert events(atlas.handle(claimed("t"), failed("t")))[-1] == ("t", "failed")


def test_the_same_failure_again_changes_nothing(running: Core) -> None:
    running.handle(failed("t"))
    before = view(running.task("t"))
    assert running.handle(failed("t")) == []
    assert view(running.task("t")) == before
    running.tick(at=1)
    assert running.handle(failed("t")) == []
    assert running.status("t") == "assigned"


def test_a_task_that_its_worker_gave_up_is_tried_again(running: Core) -> None:
    running.handle(gave_up("t"), at=0)
    assert running.task("t").attempts[0].error == Failure(type="stopped", message="the worker gave the task up")
    assert assignments(running.tick(at=1)) == [("t", 2, "atlas")]


def test_a_late_result_of_an_older_attempt_counts_and_the_newer_one_is_stopped(core: Core) -> None:
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(claimed("t"), at=1)
    core.handle(left("atlas"), seen("boreas"), at=2)
    assert core.task("t").llm == "boreas"
    core.handle(claimed("t", 2, llm="boreas"), at=3)
    commands = core.handle(completed("t", 1, result="late"), at=4)
    assert stops(commands) == [("t", 2, "boreas/i1")]
    assert events(commands) == [("t", "completed")]
    task = core.task("t")
    assert (task.llm, task.result) == ("atlas", "late")
    assert [(a.attempt, a.llm, a.outcome) for a in task.attempts] == [
        (1, "atlas", "completed"),
        (2, "boreas", "cancelled"),
    ]
    assert task.started_at == moment(1)
    assert (task.ready_at or 0) <= moment(1)
    assert [change.what for change in task.history] == ["late result of attempt 1 accepted"]
    assert assignments(core.handle(submitted("next"))) == [("next", 1, "boreas")]


@pytest.mark.parametrize("state", ["pending", "blocked"])
def test_a_late_result_counts_while_the_task_waits(running: Core, state: str) -> None:
    if state == "pending":
        running.handle(left("atlas"))
    else:
        running.handle(left("atlas"), seen("boreas"))
        running.handle(claimed("t", 2, llm="boreas"), failed("t", 2, llm="boreas"))
    assert running.status("t") == state
    assert events(running.handle(completed("t", 1))) == [("t", "completed")]
    assert running.handle(completed("t", 1)) == []
    running.tick(at=100)
    assert running.status("t") == "completed"


def test_a_late_failure_of_an_older_attempt_is_only_noted(running: Core) -> None:
    running.handle(left("atlas"))
    running.handle(seen("atlas", "i2"))
    assert running.handle(failed("t", 1)) == []
    assert running.status("t") == "assigned"
    assert [change.what for change in running.task("t").history] == ["stale result of attempt 1: failed"]


def test_a_result_after_the_end_is_noted_and_changes_nothing_else(core: Core) -> None:
    core.handle(seen("atlas"), submitted("t"))
    core.handle(claimed("t"))
    core.handle(left("atlas"), seen("boreas"))
    core.handle(completed("t", 2, llm="boreas", result="first"))
    before = view(core.task("t"))
    assert core.handle(completed("t", 1, result="second")) == []
    after = view(core.task("t"))
    assert [change["what"] for change in after["history"]] == ["stale result of attempt 1: the task was completed"]
    assert {**after, "history": []} == {**before, "history": []}


def test_a_result_after_cancellation_is_noted_and_changes_nothing_else(running: Core) -> None:
    running.handle(cancelled("t"))
    assert running.handle(completed("t")) == []
    assert running.status("t") == "cancelled"
    assert running.task("t").result is None
    assert running.task("t").history[-1].what == "stale result of attempt 1: the task was cancelled"


def test_a_result_of_an_llm_that_never_had_the_task_is_refused(running: Core) -> None:
    report = replace(completed("t", llm="mallory"), origin=3)
    never = Problem("attempt", "mallory has never had attempt 1 of this task")
    assert running.handle(report) == [Refuse("t", (never,), None, None, 3)]
    assert running.status("t") == "in_progress"


def test_a_result_of_an_attempt_that_never_was_is_refused(running: Core) -> None:
    report = replace(completed("t", 7), origin=3)
    never = Problem("attempt", "atlas has never had attempt 7 of this task")
    assert running.handle(report) == [Refuse("t", (never,), None, None, 3)]
    assert running.status("t") == "in_progress"


def test_a_result_of_a_task_that_nobody_knows_is_refused(core: Core) -> None:
    report = replace(completed("nothing"), origin=3)
    assert core.handle(report) == [Refuse("nothing", (Problem("task_id", "there is no such task"),), None, None, 3)]


def test_a_result_does_not_count_again_for_the_same_task_when_it_is_retried(running: Core) -> None:
    running.handle(completed("t", result="old"))
    running.handle(retried("t"))
    assert running.handle(completed("t", result="old")) == []
    assert running.status("t") == "assigned"
    running.handle(completed("t", 2, result="new"))
    assert running.task("t").result == "new"


def test_the_history_keeps_the_newest_changes(running: Core) -> None:
    for n in range(300):
        running.handle(UpdateRequested("t", {"priority": 9}, Sender(f"user-{n}")))
    assert [running.task("t").history[n].by for n in (0, -1)] == ["user-100", "user-299"]


# -- leases ----------------------------------------------------------------------------------------------------------


def test_a_silent_worker_loses_its_task(core: Core) -> None:
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(claimed("t"))
    core.handle(seen("boreas"), at=LEASE - 1)
    assert assignments(core.tick(at=LEASE - 0.1)) == []
    commands = core.tick(at=LEASE)
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert events(commands) == [("atlas", "offline"), ("t", "assigned")]
    assert assignments(commands) == [("t", 2, "boreas")]
    [lost] = core.task("t").attempts
    assert lost.outcome == "lost"
    assert lost.error
    assert lost.error.message == "the instance fell silent (attempt 1 at atlas)"


def test_a_worker_that_beats_keeps_its_task(running: Core) -> None:
    for at in range(5, 100, 5):
        assert running.handle(seen("atlas", tasks=[("t", 1)]), at=at) == []
    assert running.status("t") == "in_progress"


def test_a_worker_whose_beats_no_longer_name_the_task_loses_it(running: Core) -> None:
    running.handle(seen("atlas"), at=5)
    running.handle(seen("atlas"), at=9)
    commands = running.tick(at=LEASE)
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert assignments(commands) == [("t", 2, "atlas")]


def test_a_sign_of_progress_counts_like_a_beat(running: Core) -> None:
    running.handle(seen("atlas"), progressed("t"), at=9)
    assert running.tick(at=LEASE) == []
    assert running.status("t") == "in_progress"


def test_progress_of_somebody_else_does_not_count(running: Core) -> None:
    running.handle(seen("atlas"), progressed("t", instance="i2"), progressed("t", 2), at=9)
    running.tick(at=LEASE)
    assert running.task("t").attempt == 2


def test_an_assignment_that_nobody_claims_goes_back(atlas: Core) -> None:
    atlas.handle(submitted("t"), at=0)
    atlas.handle(seen("atlas"), at=9)
    assert assignments(atlas.tick(at=LEASE)) == [("t", 2, "atlas")]
    assert [attempt.outcome for attempt in atlas.task("t").attempts] == ["unclaimed"]
    assert atlas.task("t").starts == 0


def test_a_worker_that_says_goodbye_gives_its_tasks_back(core: Core) -> None:
    core.handle(seen("atlas", slots=2), submitted("claimed"), submitted("unclaimed"))
    core.handle(claimed("claimed"))
    commands = core.handle(left("atlas"))
    assert set(events(commands)) == {("atlas", "offline"), ("claimed", "pending"), ("unclaimed", "pending")}
    assert {core.task(id_).attempts[0].outcome for id_ in ("claimed", "unclaimed")} == {"lost", "unclaimed"}


def test_a_replica_takes_over_what_the_other_had_not_claimed(core: Core) -> None:
    core.handle(seen("atlas", "i1"), seen("atlas", "i2"), submitted("t"))
    assert events(core.handle(left("atlas", "i1"))) == [("atlas", "online")]  # with fewer slots
    assert events(core.handle(claimed("t", instance="i2"))) == [("t", "in_progress")]


def test_a_task_that_is_lost_too_often_fails(core: Core) -> None:
    core.handle(submitted("t", max_attempts=2))
    for attempt in (1, 2):
        core.handle(seen("atlas"))
        core.handle(claimed("t", attempt))
        core.handle(left("atlas"))
    assert core.status("t") == "failed"
    error = core.task("t").error
    assert error
    assert (error.type, error.message) == ("lost", "the instance left (attempt 2 at atlas)")


def test_a_worker_that_holds_what_is_no_longer_its_own_is_stopped(running: Core) -> None:
    running.handle(cancelled("t"))
    assert stops(running.handle(seen("atlas", tasks=[("t", 1), ("nothing", 1)]))) == [
        ("t", 1, "atlas/i1"),
        ("nothing", 1, "atlas/i1"),
    ]


def test_a_worker_that_is_about_to_claim_is_not_stopped(atlas: Core) -> None:
    atlas.handle(submitted("t"))
    assert atlas.handle(seen("atlas", tasks=[("t", 1)])) == []
    assert stops(atlas.handle(claimed("t"))) == []


def test_an_attempt_whose_answer_is_being_checked_outlasts_its_lease(running: Core) -> None:
    for at in range(2, 60, 2):
        assert running.handle(BeingChecked("atlas", "t", 1, "i1"), at=at) == []
        assert running.tick(at=at) == []
    running.handle(completed("t"), at=60)
    assert running.status("t") == "completed"


def test_only_the_attempt_that_has_given_its_answer_outlasts_its_lease(running: Core) -> None:
    running.handle(BeingChecked("atlas", "t", 2, "i1"), BeingChecked("atlas", "t", 1, "i2"), at=LEASE - 1)
    running.tick(at=LEASE)
    assert running.task("t").attempts[0].outcome == "lost"


def test_an_instance_that_comes_back_after_its_lease_is_stopped_and_gets_work_again(running: Core) -> None:
    running.tick(at=LEASE)
    commands = running.handle(seen("atlas", tasks=[("t", 1)]), at=LEASE + 1)
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert assignments(commands) == [("t", 2, "atlas")]


def test_a_claim_before_the_first_hello_is_taken(core: Core) -> None:
    core.handle(seen("atlas", "i1"), submitted("t"))
    core.handle(claimed("t", instance="i2"))
    assert core.task("t").instance == "i2"
    assert assignments(core.handle(submitted("next"))) == []
    assert assignments(core.handle(seen("atlas", "i2", tasks=[("t", 1)]))) == [("next", 1, "atlas")]


# -- cancel and retry ------------------------------------------------------------------------------------------------


def test_a_retried_task_waits_for_a_dependency_that_is_retried_too(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"]), failed("t", retryable=False))
    assert running.status("next") == "failed"
    running.handle(retried("t"))
    assert events(running.handle(retried("next"))) == [("next", "blocked")]
    running.handle(claimed("t", 2))
    assert events(running.handle(completed("t", 2))) == [("t", "completed"), ("next", "assigned")]


def test_a_retried_task_does_not_wait_for_what_has_failed_for_good(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"]), failed("t", retryable=False))
    assert assignments(running.handle(retried("next"))) == [("next", 1, "atlas")]


def test_a_task_that_is_retried_in_the_moment_in_which_its_dependency_ends_waits_no_more(running: Core) -> None:
    running.handle(submitted("next", depends_on=["t"]))
    commands = running.handle(completed("t"), cancelled("next"), retried("next"))
    assert assignments(commands) == [("next", 1, "atlas")]


def in_state(core: Core, state: str) -> None:
    """Bring the task `t` into that state."""
    match state:
        case "blocked":
            core.handle(submitted("t", depends_on=["never"]))
        case "pending":
            core.handle(submitted("t", assignee="nobody", force=True))
        case "assigned":
            core.handle(seen("atlas"), submitted("t"))
        case _:
            core.handle(seen("atlas"), submitted("t"))
            core.handle(claimed("t"))
    assert core.status("t") == state


@pytest.mark.parametrize(
    ("state", "note"),
    [
        ("blocked", "cancelled while blocked: enough"),
        ("pending", "cancelled while pending: enough"),
        ("assigned", "cancelled while assigned at atlas: enough"),
        ("in_progress", "cancelled while in progress at atlas: enough"),
    ],
)
def test_a_task_can_be_cancelled_in_every_live_state(core: Core, state: str, note: str) -> None:
    in_state(core, state)
    commands = core.handle(cancelled("t", reason="enough", sender=BEN))
    assert events(commands) == [("t", "cancelled")]
    assert answers(commands) == [("t", "task.cancelled", "replies-of-ana"), ("t", "task.cancelled", "replies-of-ben")]
    assert stops(commands) == ([("t", 1, "atlas/i1")] if state == "in_progress" else [])
    assert [(change.by, change.what) for change in core.task("t").history] == [("ben", note)]
    assert assignments(core.handle(seen("atlas"), submitted("next"))) == [("next", 1, "atlas")]


def test_a_task_that_is_over_cannot_be_cancelled(running: Core) -> None:
    running.handle(completed("t"))
    problem = Problem("id", "the task is over already: completed")
    assert running.handle(cancelled("t")) == [Refuse("t", (problem,), "replies-of-ana", "c-1")]


@pytest.mark.parametrize("request_", [cancelled, retried])
def test_a_task_that_nobody_knows_can_be_neither_cancelled_nor_retried(core: Core, request_: type) -> None:
    assert core.handle(request_("t")) == [
        Refuse("t", (Problem("id", "there is no such task"),), ANA.reply_to, ANA.correlation_id)
    ]


def test_a_task_that_is_not_over_cannot_be_retried(running: Core) -> None:
    [refusal] = running.handle(retried("t"))
    assert isinstance(refusal, Refuse)
    assert refusal.problems == (Problem("id", "the task is not over: in_progress"),)


def test_a_finished_task_can_be_retried_with_all_its_attempts(running: Core) -> None:
    running.handle(failed("t", retryable=False))
    commands = running.handle(retried("t", sender=BEN))
    assert events(commands) == [("t", "assigned")]
    assert answers(commands) == [("t", "task.accepted", "replies-of-ben")]
    task = running.task("t")
    assert (task.attempt, task.starts, task.error, task.finished_at) == (2, 0, None, None)
    assert task.history[-1].what == "retried after it failed"
    assert answers(running.handle(completed("t", 2))) == [("t", "task.completed", "replies-of-ben")]
    assert [attempt.outcome for attempt in running.task("t").attempts] == ["failed", "completed"]


def test_a_task_that_was_cancelled_and_is_retried_goes_back_to_its_place(core: Core) -> None:
    core.handle(*(submitted(f"t{n}") for n in range(3)))
    core.handle(cancelled("t1"))
    core.handle(retried("t1"))
    assert [id_ for id_, _, _ in assignments(core.handle(seen("atlas", slots=3)))] == ["t0", "t1", "t2"]


def test_a_task_that_is_retried_still_waits_for_its_time(core: Core) -> None:
    core.handle(submitted("t", not_before=10), cancelled("t"), seen("atlas"), at=0)
    assert events(core.handle(retried("t"), at=1)) == [("t", "blocked")]
    assert assignments(core.handle(seen("atlas"), at=9)) == []
    assert assignments(core.tick(at=10)) == [("t", 1, "atlas")]


# -- taking over -----------------------------------------------------------------------------------------------------


def test_leases_are_extended_once_when_a_coordinator_takes_over(running: Core) -> None:
    running.restart(at=100)
    running.tick(at=100 + LEASE - 0.1)
    assert running.status("t") == "in_progress"
    running.tick(at=100 + LEASE)
    assert running.status("t") == "pending"


def test_all_goes_on_after_a_coordinator_takes_over(core: Core) -> None:
    core.handle(seen("atlas", slots=2, skills=["x"]), seen("boreas", "b1"))
    core.handle(submitted("t"), submitted("u", assignee="atlas", force=True), submitted("later", not_before=9))
    core.handle(submitted("v", skills=["x"]), submitted("w", skills=["y"]), submitted("d", depends_on=["u"]))
    core.handle(claimed("u"))
    core.restart()
    assert core.tick(at=1) == []
    assert core.handle(claimed("u")) == []
    commands = core.handle(completed("u"))
    assert events(commands)[0] == ("u", "completed")
    assert assignments(commands) == [("v", 1, "atlas"), ("d", 1, "boreas")]
    assert events(core.tick(at=9))[0] == ("later", "pending")


def test_tasks_that_waited_are_assigned_after_a_coordinator_took_over(core: Core) -> None:
    core.handle(submitted("a", skills=["x"]), submitted("b", assignee="atlas", force=True), submitted("c"))
    core.restart()
    commands = core.handle(seen("atlas", slots=3, skills=["x"])) + core.tick(at=1)
    assert [task_id for task_id, _, _ in assignments(commands)] == ["a", "b", "c"]


# -- memory ----------------------------------------------------------------------------------------------------------


def test_more_tasks_than_fit_into_memory_are_done_in_order() -> None:
    core = Core(window=10)
    for n in range(100):
        core.handle(submitted(f"t{n:03}", priority=n % 3))
        assert len(core.machine.board.tasks) <= 20
    done = []
    core.handle(seen("atlas", slots=3))
    while work := core.database.in_hand():
        done += sorted(task.id for task in work)
        core.handle(*(completed(task.id) for task in work))
        assert len(core.machine.board.tasks) <= 20
    by_rank = sorted(range(100), key=lambda n: (-(n % 3), n))
    assert sorted(done) == sorted(f"t{n:03}" for n in by_rank)
    for third, priority in zip((done[:33], done[33:66], done[66:]), (2, 1, 0), strict=True):
        assert third == [f"t{n:03}" for n in range(100) if n % 3 == priority]


def test_tasks_that_make_room_for_more_urgent_ones_leave_memory() -> None:
    core = Core(window=10)
    for n in range(200):
        core.handle(submitted(f"t{n:03}", due=1000 - n))
        assert len(core.machine.board.tasks) <= 20
    commands = core.handle(seen("atlas", slots=5))
    assert [task_id for task_id, _, _ in assignments(commands)] == [f"t{n}" for n in range(199, 194, -1)]


def test_a_lane_is_refilled_with_what_the_same_batch_has_not_taken() -> None:
    core = Core(window=4)
    core.handle(*(submitted(f"t{n}") for n in range(30)))
    core.handle(seen("atlas", slots=30))
    for _ in range(20):
        core.tick(at=core.at)
    assert len(core.database.in_hand()) == 30


def test_a_task_that_goes_back_while_its_lane_runs_low_is_not_lost() -> None:
    core = Core(window=4)
    core.handle(*(submitted(f"t{n}") for n in range(12)))
    core.handle(seen("atlas", slots=7))
    core.handle(*(claimed(f"t{n}") for n in range(7)))
    core.handle(left("atlas"))
    core.handle(seen("boreas", slots=12))
    for _ in range(10):
        core.tick(at=core.at)
    assert len(core.database.in_hand()) == 12


def test_submitted_and_cancelled_tasks_leave_nothing_in_memory(core: Core) -> None:
    core.handle(submitted("first"))
    for n in range(1000):
        core.handle(submitted(f"t{n}"), cancelled(f"t{n}"))
    [lane] = core.machine.board.ready.lanes()
    assert len(lane.order) < 200
    assert list(core.machine.board.tasks) == ["first"]


def test_tasks_that_no_llm_can_do_leave_memory_when_there_are_many() -> None:
    core = Core(window=2)
    core.handle(*(submitted(f"t{n}", skills=[f"s{n % 3}"]) for n in range(9)))
    assert core.machine.board.tasks == {}
    core.handle(submitted("late", skills=["s0"]), submitted("urgent", skills=["s0"], priority=9), cancelled("t3"))
    assert core.machine.board.tasks == {}
    core.handle(seen("atlas", slots=9, skills=["s0"]))
    commands = [command for _ in range(9) for command in core.tick(at=core.at)]
    assert [task_id for task_id, _, _ in assignments(commands)] == ["urgent", "t0", "t6", "late"]


def test_tasks_for_llms_that_have_gone_leave_memory_when_there_are_many_until_one_comes_back() -> None:
    core = Core(window=2)
    names = ["ada", "bela", "cleo"]
    core.handle(*map(seen, names))
    core.handle(*map(left, names))
    core.handle(*(submitted(f"t{n}", assignee=names[n % 3]) for n in range(6)))
    assert core.machine.board.tasks == {}
    core.restart()
    core.tick(at=1)
    assert core.machine.board.tasks == {}
    core.handle(seen("bela", slots=9))
    assert assignments(core.tick(at=2)) == [("t1", 1, "bela"), ("t4", 1, "bela")]


def test_lanes_that_no_llm_can_serve_are_not_kept_when_there_are_many(core: Core) -> None:
    core.handle(*(submitted(f"t{n}", skills=[f"s{n}"]) for n in range(600)))
    assert core.machine.board.ready.lanes() == []
    core.handle(seen("atlas", slots=2, skills=["s7", "s8"]))
    assert [task_id for task_id, _, _ in assignments(core.tick(at=1))] == ["t7", "t8"]


def test_a_lane_without_tasks_is_forgotten(core: Core) -> None:
    core.handle(*(submitted(f"t{n}", skills=[f"s{n}"]) for n in range(600)))
    core.handle(*(cancelled(f"t{n}") for n in range(600)))
    assert core.machine.board.ready.lanes() == []


def test_a_thousand_tasks_in_a_row_end_with_the_first(core: Core) -> None:
    core.handle(submitted("t0"), *(submitted(f"t{n}", depends_on=[f"t{n - 1}"]) for n in range(1, 1000)))
    core.handle(cancelled("t0"))
    assert {task.status for task in core.database.tasks.values()} == {Status.CANCELLED, Status.FAILED}


# -- expertise -------------------------------------------------------------------------------------------------------


def test_a_task_that_does_not_say_who_can_do_it_gets_the_skills_that_its_text_suggests() -> None:
    core = Core(expertise=Expertise())
    core.handle(seen("ada", skills=["translate"], description="translates letters into French"))
    core.handle(seen("ben", skills=["python"], description="writes and debugs Python programs"))
    commands = core.handle(submitted("t", description="debug this Python program"))
    assert assignments(commands) == [("t", 1, "ben")]
    assert core.task("t").spec.skills == ["python"]
    assert [change.what for change in core.task("t").history] == ["skills suggested by the text: python"]


def test_a_task_with_skills_or_an_assignee_keeps_what_it_says() -> None:
    core = Core(expertise=Expertise())
    core.handle(seen("ada", skills=["translate"], description="translates letters into French"))
    core.handle(seen("ben", skills=["python"], description="writes and debugs Python programs"))
    core.handle(submitted("s", description="debug this Python program", skills=["translate"]))
    core.handle(submitted("a", description="debug this Python program", assignee="ada"))
    assert (core.task("s").llm, core.task("a").spec.skills) == ("ada", [])
