"""Workers that fall silent or leave, and what becomes of their tasks."""

from coordinator.core.events import BeingChecked
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    assignments,
    cancelled,
    claimed,
    completed,
    events,
    left,
    progressed,
    seen,
    stops,
    submitted,
)


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


def test_an_unclaimed_assignment_goes_back(atlas: Core) -> None:
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


def test_a_worker_that_holds_an_attempt_it_has_lost_is_stopped(running: Core) -> None:
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
