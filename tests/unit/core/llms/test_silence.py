"""When a silent worker loses its task: only when it had its chance to be heard, by a clock that nobody can set."""

import pytest

from broker.protocol.task_requests import ManageLLM
from broker.timestamps import seconds
from coordinator.core.commands import SendDrain
from coordinator.core.events import Claimed, ClockSet, Heartbeat, ManageRequested, Outage
from coordinator.core.tasks.attempts import MOST_EXCUSED
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import (
    answered,
    assignments,
    claimed,
    completed,
    events,
    failed,
    left,
    resumed,
    seen,
    stops,
    submitted,
    waited,
)

HOUR = 3600.0


@pytest.fixture
def running() -> Core:
    """The LLM atlas runs the task t since the start."""
    core = Core()
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(claimed("t"))
    return core


# -- hearing -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_has_run_out_is_in_doubt_until_all_is_heard_that_was_said_before_its_end(running: Core) -> None:
    assert not running.machine.in_doubt
    assert running.tick(at=LEASE + 5, heard=LEASE - 0.1) == []
    assert running.machine.in_doubt
    assert stops(running.tick(at=LEASE + 5, heard=LEASE)) == [("t", 1, "atlas/i1")]
    assert not running.machine.in_doubt


def test_a_beat_that_is_heard_late_ends_the_doubt(running: Core) -> None:
    running.tick(at=LEASE + 5, heard=1)
    assert running.handle(seen("atlas", tasks=[("t", 1)]), at=LEASE + 6, heard=LEASE + 5) == []
    assert not running.machine.in_doubt
    assert running.status("t") == "in_progress"


def test_an_assignment_that_nobody_seems_to_have_claimed_is_in_doubt_too() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(seen("atlas"), at=LEASE - 1, heard=0)
    assert core.tick(at=LEASE, heard=0) == []
    assert core.machine.in_doubt
    core.tick(at=LEASE, heard=LEASE)
    assert core.task("t").attempts[0].outcome == "unclaimed"


def test_a_task_that_beats_do_not_name_is_in_doubt_too(running: Core) -> None:
    running.handle(seen("atlas"), at=LEASE - 1, heard=0)
    assert running.tick(at=LEASE, heard=0) == []
    assert running.machine.in_doubt
    assert stops(running.tick(at=LEASE, heard=LEASE)) == [("t", 1, "atlas/i1")]


def test_one_silent_worker_among_others_is_judged_by_itself(running: Core) -> None:
    running.handle(seen("boreas"), at=LEASE - 1)
    assert assignments(running.tick(at=LEASE)) == [("t", 2, "boreas")]


# -- outages -----------------------------------------------------------------------------------------------------------


def test_every_lease_begins_again_after_an_outage(running: Core) -> None:
    running.handle(Outage(), at=2 * LEASE)
    running.tick(at=3 * LEASE - 0.1)
    assert running.status("t") == "in_progress"
    running.tick(at=3 * LEASE)
    assert running.status("t") == "pending"


def test_an_assignment_may_be_claimed_for_a_whole_lease_after_an_outage() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(Outage(), at=2 * LEASE)
    core.tick(at=3 * LEASE - 0.1)
    assert core.status("t") == "assigned"


def test_a_loss_after_an_outage_does_not_count(running: Core) -> None:
    running.handle(Outage(), at=5)
    running.tick(at=5 + LEASE)
    task = running.task("t")
    assert (task.status, task.starts) == ("pending", 0)
    [lost] = task.attempts
    assert lost.error
    assert lost.error.message == "the instance did not come back after an outage (attempt 1 at atlas)"


def test_a_loss_after_another_coordinator_has_taken_over_does_not_count(running: Core) -> None:
    running.restart(at=5)
    running.tick(at=5 + LEASE)
    assert running.task("t").starts == 0


def test_a_loss_counts_when_the_worker_was_heard_since_the_outage(running: Core) -> None:
    running.handle(Outage(), at=5)
    running.handle(seen("atlas", tasks=[("t", 1)]), at=6)
    running.tick(at=6 + LEASE)
    assert running.task("t").starts == 1


def test_a_worker_that_says_goodbye_after_an_outage_has_lost_an_attempt(running: Core) -> None:
    running.handle(Outage(), at=5)
    running.handle(left("atlas"), at=6)
    assert running.task("t").starts == 1


def test_a_task_that_every_outage_comes_with_fails_in_the_end() -> None:
    core = Core()
    core.handle(submitted("t", max_attempts=1), at=0)
    for attempt in range(1, MOST_EXCUSED + 2):
        assert core.status("t") == "pending"
        core.handle(seen("atlas", f"i{attempt}"))
        core.handle(claimed("t", attempt, instance=f"i{attempt}"))
        core.handle(Outage())
        core.tick(at=core.at + LEASE)
    assert core.status("t") == "failed"


# -- the clock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [60.0, HOUR, -60.0, -HOUR])
def test_a_lease_is_as_long_when_the_clock_is_set(running: Core, by: float) -> None:
    running.handle(ClockSet(seconds(by)), at=5 + by)
    running.tick(at=by + LEASE - 0.1)
    assert running.status("t") == "in_progress"
    running.tick(at=by + LEASE)
    assert running.status("t") == "pending"


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_an_assignment_waits_as_long_for_its_claim_when_the_clock_is_set(by: float) -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(ClockSet(seconds(by)), seen("atlas"), at=5 + by)
    core.tick(at=by + LEASE - 0.1)
    assert core.status("t") == "assigned"
    core.tick(at=by + LEASE)
    assert [attempt.outcome for attempt in core.task("t").attempts] == ["unclaimed"]


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_the_time_of_an_attempt_is_as_long_when_the_clock_is_set(by: float) -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t", timeout=4.0), at=0)
    core.handle(claimed("t"))
    core.handle(ClockSet(seconds(by)), at=1 + by)
    for at in range(2, 14):
        core.handle(seen("atlas", tasks=[("t", 1)]), at=at + by)
    assert core.status("t") == "in_progress"
    core.handle(seen("atlas", tasks=[("t", 1)]), at=14 + by)
    assert core.status("t") == "blocked"


def test_no_run_looks_like_a_straggler_when_the_clock_is_set_forward() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t"), at=0)
    core.handle(claimed("t"))
    core.handle(seen("boreas"), at=1)
    for number in range(5):  # boreas is quick
        core.handle(submitted(f"quick-{number}", assignee="boreas", force=True))
        core.handle(claimed(f"quick-{number}", llm="boreas"))
        core.handle(completed(f"quick-{number}", llm="boreas", duration=0.1), at=core.at + 0.1)
    core.handle(ClockSet(seconds(HOUR)), seen("atlas", tasks=[("t", 1)]), at=2 + HOUR)
    core.tick(at=4 + HOUR)
    assert core.status("t") == "in_progress"


# -- timeouts ----------------------------------------------------------------------------------------------------------


def beating(core: Core, *, since: int, until: int) -> None:
    """The LLM atlas has the task t, and says so every second."""
    for at in range(since, until + 1):
        core.handle(seen("atlas", tasks=[("t", 1)]), at=at)


@pytest.fixture
def timed() -> Core:
    """The LLM atlas runs the task t, which may take 20 seconds, since the start."""
    core = Core()
    core.handle(seen("atlas"), submitted("t", timeout=20.0, max_attempts=2), at=0)
    core.handle(claimed("t"))
    return core


def test_an_attempt_that_goes_on_a_lease_after_its_timeout_is_ended(timed: Core) -> None:
    beating(timed, since=1, until=29)
    assert timed.status("t") == "in_progress"
    commands = timed.handle(seen("atlas", tasks=[("t", 1)]), at=30)
    assert stops(commands) == [("t", 1, "atlas/i1")]
    assert events(commands) == [("t", "blocked")]
    [late] = timed.task("t").attempts
    assert late.outcome == "failed"
    assert late.error
    assert (late.error.type, late.error.message, late.error.retryable) == ("timeout", "no answer within 20 s", True)


def test_the_last_attempt_that_is_too_late_fails_the_task() -> None:
    core = Core()
    core.handle(seen("atlas"), submitted("t", timeout=1.0, max_attempts=1), at=0)
    core.handle(claimed("t"))
    beating(core, since=1, until=11)
    error = core.task("t").error
    assert error
    assert (core.status("t"), error.type) == ("failed", "timeout")


def test_a_timeout_waits_for_a_result_that_may_be_on_its_way(timed: Core) -> None:
    beating(timed, since=1, until=29)
    assert timed.handle(seen("atlas", tasks=[("t", 1)]), at=31, heard=29.9) == []
    assert timed.machine.in_doubt
    timed.handle(completed("t"), at=31, heard=31)
    assert timed.status("t") == "completed"


def test_a_result_after_the_timeout_counts_as_long_as_the_task_is_open(timed: Core) -> None:
    beating(timed, since=1, until=30)
    timed.handle(completed("t", result="late"))
    assert (timed.status("t"), timed.task("t").result) == ("completed", "late")


def test_the_workers_own_timeout_after_that_of_the_coordinator_changes_nothing(timed: Core) -> None:
    beating(timed, since=1, until=30)
    before = timed.task("t")
    timed.handle(failed("t"))
    assert timed.task("t").attempts == before.attempts


def test_the_time_that_a_person_takes_does_not_count_for_the_timeout(timed: Core) -> None:
    beating(timed, since=1, until=10)
    timed.handle(waited("t", question="1-1"))
    beating(timed, since=11, until=99)
    timed.handle(answered("t"), at=100)
    timed.handle(resumed("t"))
    beating(timed, since=101, until=118)
    assert timed.status("t") == "in_progress"
    beating(timed, since=119, until=119)
    assert timed.status("t") == "blocked"


def test_the_time_that_an_attempt_waits_for_another_task_counts_for_the_timeout(timed: Core) -> None:
    timed.handle(waited("t"))
    beating(timed, since=1, until=30)
    assert timed.status("t") == "blocked"


# -- where orders go ---------------------------------------------------------------------------------------------------


def test_orders_go_to_the_queue_that_the_instance_has_named_last(running: Core) -> None:
    machine = running.machine
    assert machine.control_queue("atlas", "i1") == "llm.atlas.i1"
    hello = seen("atlas", tasks=[("t", 1)])
    running.handle(Heartbeat(hello.presence, "llm.atlas.i1.2"))
    assert machine.control_queue("atlas", "i1") == "llm.atlas.i1.2"
    assert machine.control_queue("atlas", "i2") == "llm.atlas.i2"
    assert machine.control_queue("nobody", "i1") == "llm.nobody.i1"
    running.handle(Claimed("atlas", claimed("t").claim, "llm.atlas.i1.3"))
    assert machine.control_queue("atlas", "i1") == "llm.atlas.i1.3"
    drain = ManageRequested(ManageLLM(llm="atlas", drain=True))
    assert [c.instance for c in running.handle(drain) if isinstance(c, SendDrain)] == ["i1"]
