"""Tasks that wait for other tasks."""

from dataclasses import replace

import pytest

from broker.errors import Problem
from broker.protocol.worker_reports import Failure
from coordinator.core.commands import Refuse
from tests.support.core_driver import Core
from tests.support.core_events import (
    answers,
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    failed,
    retried,
    seen,
    submitted,
)


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
def test_a_dependency_cycle_is_refused_with_its_path(core: Core, batches: str) -> None:
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


def test_a_dependency_retried_before_its_end_takes_effect_keeps_its_dependents_waiting(core: Core) -> None:
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
