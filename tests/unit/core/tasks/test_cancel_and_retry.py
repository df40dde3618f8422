"""Tasks that are cancelled and retried."""

import pytest

from broker.errors import Problem
from coordinator.core.commands import Refuse
from coordinator.core.events import Sender
from tests.support.core_driver import Core
from tests.support.core_events import (
    ANA,
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    retried,
    seen,
    stops,
    submitted,
)

BEN = Sender("ben", "replies-of-ben", "c-2")


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
    problem = Problem("id", "the task is already completed")
    assert running.handle(cancelled("t")) == [Refuse("t", (problem,), "replies-of-ana", "c-1")]


@pytest.mark.parametrize("request_", [cancelled, retried])
def test_an_unknown_task_can_be_neither_cancelled_nor_retried(core: Core, request_: type) -> None:
    assert core.handle(request_("t")) == [
        Refuse("t", (Problem("id", "there is no such task"),), ANA.reply_to, ANA.correlation_id)
    ]


def test_a_task_that_is_not_over_cannot_be_retried(running: Core) -> None:
    [refusal] = running.handle(retried("t"))
    assert isinstance(refusal, Refuse)
    assert refusal.problems == (Problem("id", "the task is not finished: in_progress"),)


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
