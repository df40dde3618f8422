"""Lanes, delays, due dates and dependencies: what the batch loop finds by query."""

import random
import string
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.errors import NotTheLeader
from broker.protocol.status import Status
from broker.timestamps import Instant, Micros, from_datetime, seconds
from coordinator.core.events import NEVER
from coordinator.core.scheduling.ready_queue import NOTHING
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Task
from coordinator.inbound.decoder import MAX_SKILLS_CHARACTERS
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD, NOW, a_task, commit, stored


def test_a_lane_returns_its_tasks_in_order_of_rank(store: Store) -> None:
    stored(
        store,
        a_task(1, priority=3),
        a_task(2),
        a_task(3, due="2026-12-01T09:00:00Z"),
        a_task(4, priority=9),
        a_task(5),
        a_task(6, skills=["x"]),
        a_task(7, status=Status.BLOCKED),
        a_task(8, status=Status.COMPLETED),
        a_task(9, due="1970-01-01T09:00:00Z"),
    )
    assert [task.seq for task in store.lane("", NOTHING, 100)] == [4, 9, 3, 2, 5, 1]
    assert [task.seq for task in store.lane("", NOTHING, 3)] == [4, 9, 3]
    assert [task.seq for task in store.lane("x", NOTHING, 3)] == [6]
    assert store.lane("nobody", NOTHING, 3) == []


def test_a_lane_continues_below_any_of_its_tasks(store: Store) -> None:
    days = [None, "2026-12-01T09:00:00Z", "2026-12-02T09:00:00Z"]
    stored(store, *(a_task(n, priority=n % 3, due=days[n // 3 % 3]) for n in range(1, 19)))
    in_rank = store.lane("", NOTHING, 100)
    for place, task in enumerate(in_rank):
        assert [below.seq for below in store.lane("", task.rank, 5)] == [t.seq for t in in_rank[place + 1 : place + 6]]


def test_lanes_returns_every_lane_with_a_pending_task_once(store: Store) -> None:
    skills = [["x"], ["x"], ["x", "y"], ["y", "x"], ["a.b"], ["a-b"], ["a+b"], ["a"], [], []]
    stored(
        store,
        *(a_task(n, skills=wanted) for n, wanted in enumerate(skills, 1)),
        a_task(20, assignee="atlas"),
        a_task(21, skills=["busy"], status=Status.ASSIGNED),
    )
    assert sorted(store.lanes()) == sorted(["x", "x y", "a.b", "a-b", "a+b", "a", "", "@atlas"])


def test_the_longest_accepted_list_of_skills_is_stored_as_a_lane(store: Store) -> None:
    chance = random.Random(1)
    skills = ["".join(chance.choices(string.ascii_lowercase, k=63)) for _ in range(MAX_SKILLS_CHARACTERS // 64)]
    stored(store, a_task(1, skills=skills))
    [lane] = store.lanes()
    assert [task.seq for task in store.lane(lane, NOTHING, 1)] == [1]


def test_in_hand_returns_assigned_and_running_tasks(store: Store) -> None:
    asking = a_task(20, status=Status.INPUT_REQUIRED, instance="i1")
    stored(store, asking, *(a_task(n, status=status, llm="atlas") for n, status in enumerate(Status, 1)))
    stored(store, a_task(99, status=Status.IN_PROGRESS, mode="all", assignees=["atlas"]))
    found = store.in_hand()
    assert {task.status for task in found} == {Status.ASSIGNED, Status.IN_PROGRESS, Status.INPUT_REQUIRED}
    assert [task.seq for task in found if task.status is Status.INPUT_REQUIRED] == [20]


def test_delayed_tasks_become_ready_in_order_of_not_before(store: Store) -> None:
    def blocked(number: int, wake_at: int | None, waiting_on: int = 0) -> Task:
        return a_task(number, status=Status.BLOCKED, wake_at=wake_at, waiting_on=waiting_on)

    stored(store, blocked(1, T0 + 30), blocked(2, T0 + 10), blocked(3, T0 + 5, waiting_on=1), blocked(4, T0 + 20))
    stored(store, blocked(5, None, waiting_on=2))
    assert [task.seq for task in store.waking(Instant(T0 + 20), 10)] == [2, 4]
    assert [task.seq for task in store.waking(Instant(T0 + 30), 2)] == [2, 4]
    assert store.waking(Instant(T0 + 9), 10) == []
    assert store.next_wake() == T0 + 10
    assert store.next_wake(after=Instant(T0 + 10)) == T0 + 20
    assert store.next_wake(after=Instant(T0 + 30)) == NEVER


def pauses(store: Store) -> dict[str, int]:
    """Return when each task wakes, in microseconds after T0."""
    return {task.id: task.wake_at - T0 for task in store.load(f"t{n}" for n in range(1, 6)) if task.wake_at}


def waiting_tasks() -> list[Task]:
    """One that waits for its date, two that pause before the next attempt, and a group with a time limit."""
    return [
        a_task(1, status=Status.BLOCKED, wake_at=Instant(T0 + 10)),
        a_task(2, status=Status.BLOCKED, wake_at=Instant(T0 + 20), starts=1, attempt=1),
        a_task(3, status=Status.BLOCKED, wake_at=Instant(T0 + 90), starts=2, attempt=2),
        a_task(4, status=Status.IN_PROGRESS, wake_at=Instant(T0 + 40), started_at=Instant(T0 + 5), attempt=1),
    ]


def test_setting_the_clock_moves_pauses_but_not_dates(store: Store) -> None:
    stored(store, *waiting_tasks())
    store.move_pauses(Micros(1000), NOW, LEAD)
    assert pauses(store) == {"t1": 10, "t2": 1020, "t3": 1090, "t4": 1040}
    assert store.load(["t4"])[0].started_at == T0 + 1005
    store.move_pauses(Micros(-1000), NOW, LEAD)
    assert pauses(store) == {"t1": 10, "t2": 20, "t3": 90, "t4": 40}


def test_pauses_that_are_too_long_are_shortened(store: Store) -> None:
    stored(store, *waiting_tasks())
    store.shorten_pauses(Instant(T0 + 30), NOW, LEAD)
    assert pauses(store) == {"t1": 10, "t2": 20, "t3": 30, "t4": 40}


def test_a_former_leader_cannot_move_pauses(store: Store) -> None:
    stored(store, *waiting_tasks())
    store.epoch -= 1
    with pytest.raises(NotTheLeader):
        store.move_pauses(Micros(9), NOW, LEAD)
    with pytest.raises(NotTheLeader):
        store.shorten_pauses(T0, NOW, LEAD)


def test_open_tasks_become_overdue_in_order_of_their_due_date(store: Store) -> None:
    def due(number: int, second: int, **fields: Any) -> Task:
        return a_task(number, due=f"2026-12-01T09:00:{second:02}Z", **fields)

    start = from_datetime(datetime(2026, 12, 1, 9, tzinfo=UTC))
    stored(store, due(1, 30), due(2, 10, status=Status.BLOCKED), due(3, 20, status=Status.IN_PROGRESS), a_task(4))
    over = {"status": Status.COMPLETED, "finished_at": NOW}
    stored(store, due(5, 5, overdue=True), due(6, 5, **over))
    assert store.next_due() == start + seconds(10)
    assert store.next_due(after=Instant(start + seconds(10))) == start + seconds(20)
    assert store.next_due(after=Instant(start + seconds(30))) == NEVER
    assert [task.seq for task in store.overdue(Instant(start + seconds(20)), 10)] == [2, 3]
    assert [task.seq for task in store.overdue(Instant(start + seconds(30)), 2)] == [2, 3]
    assert store.overdue(Instant(start + seconds(9)), 10) == []


def depending(number: int, *above: str, met: tuple[str, ...] = ()) -> tuple[Task, frozenset[str]]:
    """A task that depends on others, and which of them it still waits for."""
    task = a_task(number, status=Status.BLOCKED, depends_on=list(above))
    return task, frozenset(above) - set(met)


def test_dependents_are_found_until_the_dependency_is_met(store: Store) -> None:
    assert not store.any_dependencies()
    waits = [depending(2, "t1"), depending(3, "t1", "t2"), depending(4, "t0", met=("t0",))]
    stored(store, a_task(1), *(task for task, _ in waits), waits=waits)
    assert store.any_dependencies()
    asked = ["t0", "t1", "t2", "t3"]
    assert waiting(store, asked) == {"t1": ["t2", "t3"], "t2": ["t3"]}
    commit(store, StateChanges(met=["t1"]))
    assert waiting(store, asked) == {"t2": ["t3"]}
    assert store.waiting_for([]) == {}


def test_a_dependency_can_be_met_in_the_batch_that_adds_its_dependent(store: Store) -> None:
    task, unmet = depending(2, "t1")
    commit(store, StateChanges(new=[task], waits=[(task, unmet)], met=["t1"]))
    assert store.waiting_for(["t1"]) == {}


def waiting(store: Store, ids: list[str]) -> dict[str, list[str]]:
    return {task_id: sorted(others) for task_id, others in store.waiting_for(ids).items()}


def test_ancestry_returns_all_direct_and_indirect_dependencies(store: Store) -> None:
    waits = [depending(2, "t1"), depending(3, "t2", "t1"), depending(4, "t3", "ghost"), depending(9, "t8")]
    stored(store, a_task(1), *(task for task, _ in waits), waits=waits)
    assert store.ancestry(["t4"]) == {"t4": ["ghost", "t3"], "t3": ["t1", "t2"], "t2": ["t1"]}
    assert store.ancestry(["t2", "t9"]) == {"t2": ["t1"], "t9": ["t8"]}
    assert store.ancestry(["t1", "ghost"]) == {}
    assert store.ancestry([]) == {}


def test_ancestry_ends_in_a_dependency_cycle(store: Store) -> None:
    waits = [depending(1, "t2"), depending(2, "t1")]
    stored(store, *(task for task, _ in waits), waits=waits)
    assert store.ancestry(["t1"]) == {"t1": ["t2"], "t2": ["t1"]}


def test_ancestry_follows_a_long_chain(store: Store) -> None:
    waits = [depending(n, f"t{n - 1}") for n in range(2, 1001)]
    stored(store, *(task for task, _ in waits), waits=waits)
    assert len(store.ancestry(["t1000"])) == 999
