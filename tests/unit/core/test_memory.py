"""What the machine keeps in memory, and what another machine takes over."""

from broker.protocol.status import Status
from tests.support.core_driver import LEASE, Core
from tests.support.core_events import assignments, cancelled, claimed, completed, events, left, seen, submitted


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


def test_more_tasks_than_fit_into_memory_are_done_in_order() -> None:
    core = Core(window=10)
    for n in range(100):
        core.handle(submitted(f"t{n:03}", priority=n % 3))
        assert len(core.machine.state.tasks) <= 20
    done = []
    core.handle(seen("atlas", slots=3))
    while work := core.database.in_hand():
        done += sorted(task.id for task in work)
        core.handle(*(completed(task.id) for task in work))
        assert len(core.machine.state.tasks) <= 20
    by_rank = sorted(range(100), key=lambda n: (-(n % 3), n))
    assert sorted(done) == sorted(f"t{n:03}" for n in by_rank)
    for third, priority in zip((done[:33], done[33:66], done[66:]), (2, 1, 0), strict=True):
        assert third == [f"t{n:03}" for n in range(100) if n % 3 == priority]


def test_tasks_that_make_room_for_more_urgent_ones_leave_memory() -> None:
    core = Core(window=10)
    for n in range(200):
        core.handle(submitted(f"t{n:03}", due=1000 - n))
        assert len(core.machine.state.tasks) <= 20
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
    [lane] = core.machine.state.ready.lanes()
    assert len(lane.order) < 200
    assert list(core.machine.state.tasks) == ["first"]


def test_tasks_that_no_llm_can_do_leave_memory_when_there_are_many() -> None:
    core = Core(window=2)
    core.handle(*(submitted(f"t{n}", skills=[f"s{n % 3}"]) for n in range(9)))
    assert core.machine.state.tasks == {}
    core.handle(submitted("late", skills=["s0"]), submitted("urgent", skills=["s0"], priority=9), cancelled("t3"))
    assert core.machine.state.tasks == {}
    core.handle(seen("atlas", slots=9, skills=["s0"]))
    commands = [command for _ in range(9) for command in core.tick(at=core.at)]
    assert [task_id for task_id, _, _ in assignments(commands)] == ["urgent", "t0", "t6", "late"]


def test_tasks_for_llms_that_have_gone_leave_memory_when_there_are_many_until_one_comes_back() -> None:
    core = Core(window=2)
    names = ["ada", "bela", "cleo"]
    core.handle(*map(seen, names))
    core.handle(*map(left, names))
    core.handle(*(submitted(f"t{n}", assignee=names[n % 3]) for n in range(6)))
    assert core.machine.state.tasks == {}
    core.restart()
    core.tick(at=1)
    assert core.machine.state.tasks == {}
    core.handle(seen("bela", slots=9))
    assert assignments(core.tick(at=2)) == [("t1", 1, "bela"), ("t4", 1, "bela")]


def test_lanes_that_no_llm_can_serve_are_not_kept_when_there_are_many(core: Core) -> None:
    core.handle(*(submitted(f"t{n}", skills=[f"s{n}"]) for n in range(600)))
    assert core.machine.state.ready.lanes() == []
    core.handle(seen("atlas", slots=2, skills=["s7", "s8"]))
    assert [task_id for task_id, _, _ in assignments(core.tick(at=1))] == ["t7", "t8"]


def test_a_lane_without_tasks_is_forgotten(core: Core) -> None:
    core.handle(*(submitted(f"t{n}", skills=[f"s{n}"]) for n in range(600)))
    core.handle(*(cancelled(f"t{n}") for n in range(600)))
    assert core.machine.state.ready.lanes() == []


def test_a_thousand_tasks_in_a_row_end_with_the_first(core: Core) -> None:
    core.handle(submitted("t0"), *(submitted(f"t{n}", depends_on=[f"t{n - 1}"]) for n in range(1, 1000)))
    core.handle(cancelled("t0"))
    assert {task.status for task in core.database.tasks.values()} == {Status.CANCELLED, Status.FAILED}
