"""Claims and results of workers: in order, late, again, and of attempts that never were."""

from dataclasses import replace

import pytest

from broker.errors import Problem
from broker.protocol.worker_reports import Failure, Usage
from coordinator.core.commands import Refuse
from coordinator.core.events import Sender, UpdateRequested
from coordinator.core.tasks.task import view
from tests.support.core_driver import LEASE, Core, moment
from tests.support.core_events import (
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    gave_up,
    left,
    retried,
    seen,
    stops,
    submitted,
)


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


def test_a_claim_of_an_unknown_task_is_stopped(core: Core) -> None:
    assert stops(core.handle(claimed("nothing"))) == [("nothing", 1, "atlas/i1")]


def test_a_claim_of_a_cancelled_task_is_stopped(atlas: Core) -> None:
    atlas.handle(submitted("t"))
    assert stops(atlas.handle(cancelled("t"))) == []
    assert stops(atlas.handle(claimed("t"))) == [("t", 1, "atlas/i1")]
    assert atlas.handle(gave_up("t")) == []
    assert [change.what for change in atlas.task("t").history] == ["cancelled while assigned at atlas"]


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


def test_a_reported_duration_is_limited_to_what_the_database_holds(running: Core) -> None:
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
    assert running.task("t").error == Failure(type="output_schema", message="try later")


def test_a_pause_is_never_longer_than_a_minute(atlas: Core) -> None:
    atlas.handle(submitted("t", max_attempts=100))
    at = 0.0
    for attempt in range(1, 10):
        atlas.handle(seen("atlas"), claimed("t", attempt), failed("t", attempt), at=at)
        at += 60
        assert assignments(atlas.handle(seen("atlas"), at=at)) == [("t", attempt + 1, "atlas")]


def test_a_failure_that_is_not_retryable_is_final(running: Core) -> None:
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
    assert running.task("t").attempts[0].error == Failure(type="stopped", message="the worker stopped the attempt")
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


def test_a_result_of_an_unknown_attempt_is_refused(running: Core) -> None:
    report = replace(completed("t", 7), origin=3)
    never = Problem("attempt", "atlas has never had attempt 7 of this task")
    assert running.handle(report) == [Refuse("t", (never,), None, None, 3)]
    assert running.status("t") == "in_progress"


def test_a_result_of_an_unknown_task_is_refused(core: Core) -> None:
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
