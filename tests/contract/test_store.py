"""What the batch loop puts into the database and finds there again, whichever database it is."""

import dataclasses
import random
import string
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from broker.errors import DecodeError, NotTheLeader
from broker.protocol.primitives import decode
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant, Micros, from_datetime, seconds
from coordinator.core.events import NEVER
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.scheduling.ready_queue import NOTHING
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Change, OpenQuestion, Task
from coordinator.inbound.decoder import MOST_SKILLS
from coordinator.storage.schema import labels
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import ATTEMPT, LEAD, NOW, a_task, commit, stored


def fields_of(task: Task) -> dict[str, Any]:
    """All that is kept of a task. The id stands beside the spec, not in it."""
    kept = {field.name for field in dataclasses.fields(task)} - {"named_at", "run_time", "_submitted_view"}
    return {name: getattr(task, name) for name in kept} | {"spec": task.spec.model_copy(update={"id": None})}


FULL = decode(
    Submission,
    """{"id": "full", "description": "Zusammenfassen 日本 \\n 🐇", "skills": ["summarise", "de"],
    "assignee": "atlas", "priority": 7, "due": "2026-12-01T09:00:00+02:00",
    "not_before": "2026-11-30T23:59:59.123456Z", "depends_on": ["a", "b"], "on_dependency_failure": "run",
    "timeout": 12.5, "max_attempts": 9, "output_schema": {"type": "object"}, "labels": ["red", "blue"],
    "metadata": {"k": {"n": [123456789012345678901234567890]}}, "inputs": {"text": ["é", null, 1.5, {"\\u0000": true}]},
    "parent_id": "p", "conversation_id": "c"}""".encode(),
)


def a_full_task() -> Task:
    """A task with something in every field."""
    return Task(
        id="full",
        seq=7,
        spec=FULL,
        status=Status.IN_PROGRESS,
        priority=7,
        submitted_at=T0,
        submitted_by="ana",
        reply_to="replies",
        correlation_id="c-1",
        attempt=2,
        starts=2,
        waiting_on=3,
        wake_at=Instant(T0 + 5),
        llm="atlas",
        instance="a1",
        why="least expected wait",
        ready_at=Instant(T0 + 6),
        assigned_at=Instant(T0 + 7),
        started_at=Instant(T0 + 8),
        finished_at=Instant(T0 + 9),
        duration=Micros(10),
        result={"answer": ["🐇", {"\x00": None}]},
        error=ATTEMPT.error,
        usage=ATTEMPT.usage,
        overdue=True,
        parked=True,
        questions=[
            OpenQuestion("1-1", "Wirklich? 🐇", ("ja", "nein"), T0, "ja", "ana", NOW),
            OpenQuestion("1-2", "Warum?", (), NOW),
        ],
        asking_since=NOW,
        person_wait=Micros(11),
        attempts=[ATTEMPT],
        history=[Change(T0, "ana", "retried"), Change(NOW, "b\x00b", "stale result")],
    )


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_a_task_comes_back_as_it_was(store: Store) -> None:
    task = a_full_task()
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT)]))
    [again] = store.load(["full"])
    assert fields_of(again) == fields_of(task)
    assert (again.rank, again.lane, again.due) == (
        task.rank,
        task.lane,
        from_datetime(datetime(2026, 12, 1, 7, tzinfo=UTC)),
    )


def test_a_task_with_nothing_but_a_description_comes_back_as_it_was(store: Store) -> None:
    task = a_task(1)
    stored(store, task)
    [again] = store.load(["t1"])
    assert fields_of(again) == fields_of(task)


@pytest.mark.parametrize("result", [0, False, "", [], {}, "null", 10**30, -1.5e-300, [[[]]]])
def test_a_result_that_holds_little_is_not_taken_for_none(store: Store, result: Any) -> None:
    task = a_task(1, status=Status.COMPLETED, result=result, inputs=result)
    stored(store, task)
    [again] = store.load(["t1"])
    assert (again.result, again.spec.inputs) == (result, result)
    assert type(again.result) is type(result)


def test_the_deepest_nesting_that_gets_in_comes_back(store: Store) -> None:
    spec = decode(Submission, b'{"description": "x", "inputs": %s%s}' % (b"[" * 100, b"]" * 100))
    stored(store, Task(id="t", seq=1, spec=spec, status=Status.PENDING, priority=4, submitted_at=T0))
    assert store.load(["t"])[0].spec.inputs == spec.inputs


def test_a_megabyte_of_inputs_comes_back(store: Store) -> None:
    words = "écureuil " * 100_000
    stored(store, a_task(1, inputs=words))
    assert store.load(["t1"])[0].spec.inputs == words


def test_a_changed_task_comes_back_changed(store: Store) -> None:
    task = a_task(1, reply_to="old", labels=["red"])
    stored(store, task)
    task.status, task.llm, task.attempt, task.reply_to = Status.ASSIGNED, "atlas", 1, "new"
    task.result, task.history = ["done"], [Change(NOW, "ana", "moved")]
    commit(store, StateChanges(changed={"t1": task}))
    [again] = store.load(["t1"])
    assert fields_of(again) == fields_of(task)


def test_a_task_whose_submission_is_changed_comes_back_changed(store: Store) -> None:
    task, other = a_task(1, labels=["red", "blue"], due="2026-12-01T09:00:00Z"), a_task(2, labels=["red"])
    stored(store, task, other)
    task.respecify({"labels": ["green", "blue"], "due": None, "skills": ["x"], "inputs": [1], "description": "else"})
    commit(store, StateChanges(changed={"t1": task}, respecified={"t1": task}))
    [again] = store.load(["t1"])
    assert fields_of(again) == fields_of(task)
    assert [t.seq for t in store.lane("x", NOTHING, 9)] == [1]
    with store.engine.connect() as connection:
        marks = connection.execute(select(labels.c.label, labels.c.task_seq).order_by(labels.c.label))
        assert marks.all() == [("blue", 1), ("green", 1), ("red", 2)]


def test_a_task_that_is_new_and_changed_in_one_batch_is_stored_once(store: Store) -> None:
    task = a_task(1)
    commit(store, StateChanges(new=[task], changed={"t1": task}))
    assert [t.id for t in store.load(["t1"])] == ["t1"]


def test_only_tasks_that_exist_are_loaded_however_many_are_asked_for(store: Store) -> None:
    stored(store, *(a_task(n) for n in range(1, 1201)))
    asked = [f"t{n}" for n in range(1, 3001)]
    assert {task.id for task in store.load(asked)} == set(asked[:1200])
    assert store.load([]) == []


def test_an_id_is_told_from_another_by_its_case(store: Store) -> None:
    stored(store, a_task(1, id="Task"), a_task(2, id="task"))
    assert [task.seq for task in store.load(["task"])] == [2]


def test_the_number_of_the_newest_task_is_known(store: Store) -> None:
    assert store.last_seq() == 0
    stored(store, a_task(3), a_task(2))
    assert store.last_seq() == 3


def test_a_lone_surrogate_does_not_get_in() -> None:
    with pytest.raises(DecodeError, match="Invalid JSON"):
        decode(Submission, rb'{"description": "\ud800"}')


# -- attempts --------------------------------------------------------------------------------------------------------


def test_attempts_come_back_in_order(store: Store) -> None:
    task = a_task(1, attempt=3, status=Status.ASSIGNED, llm="atlas")
    first, second = ATTEMPT, dataclasses.replace(ATTEMPT, attempt=2, error=None, usage=None, instance=None)
    commit(store, StateChanges(new=[task], attempts=[(task, second), (task, first)]))
    assert store.load(["t1"])[0].attempts == [first, second]


def test_an_attempt_that_is_recorded_again_is_replaced(store: Store) -> None:
    task = a_task(1, attempt=1)
    late = dataclasses.replace(ATTEMPT, outcome="completed", error=None, usage=None)
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT)]))
    commit(store, StateChanges(attempts=[(task, late)]))
    assert store.load(["t1"])[0].attempts == [late]


def test_an_attempt_that_is_recorded_twice_in_one_batch_is_stored_as_it_was_last(store: Store) -> None:
    task = a_task(1, attempt=1)
    late = dataclasses.replace(ATTEMPT, outcome="completed")
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT), (task, late)]))
    assert store.load(["t1"])[0].attempts == [late]


# -- what waits, and what is in hand ---------------------------------------------------------------------------------


def test_a_lane_gives_its_tasks_in_rank(store: Store) -> None:
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


def test_a_lane_goes_on_below_any_of_its_tasks(store: Store) -> None:
    days = [None, "2026-12-01T09:00:00Z", "2026-12-02T09:00:00Z"]
    stored(store, *(a_task(n, priority=n % 3, due=days[n // 3 % 3]) for n in range(1, 19)))
    in_rank = store.lane("", NOTHING, 100)
    for place, task in enumerate(in_rank):
        assert [below.seq for below in store.lane("", task.rank, 5)] == [t.seq for t in in_rank[place + 1 : place + 6]]


def test_every_lane_with_a_pending_task_is_named_once(store: Store) -> None:
    skills = [["x"], ["x"], ["x", "y"], ["y", "x"], ["a.b"], ["a-b"], ["a+b"], ["a"], [], []]
    stored(
        store,
        *(a_task(n, skills=wanted) for n, wanted in enumerate(skills, 1)),
        a_task(20, assignee="atlas"),
        a_task(21, skills=["busy"], status=Status.ASSIGNED),
    )
    assert sorted(store.lanes()) == sorted(["x", "x y", "a.b", "a-b", "a+b", "a", "", "@atlas"])


def test_the_longest_list_of_skills_makes_a_lane(store: Store) -> None:
    chance = random.Random(1)
    skills = ["".join(chance.choices(string.ascii_lowercase, k=63)) for _ in range(MOST_SKILLS // 64)]
    stored(store, a_task(1, skills=skills))
    [lane] = store.lanes()
    assert [task.seq for task in store.lane(lane, NOTHING, 1)] == [1]


def test_what_llms_have_is_known(store: Store) -> None:
    asking = a_task(20, status=Status.INPUT_REQUIRED, instance="i1")
    stored(store, asking, *(a_task(n, status=status, llm="atlas") for n, status in enumerate(Status, 1)))
    stored(store, a_task(99, status=Status.IN_PROGRESS, mode="all", assignees=["atlas"]))
    found = store.in_hand()
    assert {task.status for task in found} == {Status.ASSIGNED, Status.IN_PROGRESS, Status.INPUT_REQUIRED}
    assert [task.seq for task in found if task.status is Status.INPUT_REQUIRED] == [20]


def test_tasks_wake_when_their_time_has_come_the_first_first(store: Store) -> None:
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
    """When each task is to be looked at, in microseconds after T0."""
    return {task.id: task.wake_at - T0 for task in store.load(f"t{n}" for n in range(1, 6)) if task.wake_at}


def waiting_tasks() -> list[Task]:
    """One that waits for its date, two that pause before the next attempt, and a group with a time limit."""
    return [
        a_task(1, status=Status.BLOCKED, wake_at=Instant(T0 + 10)),
        a_task(2, status=Status.BLOCKED, wake_at=Instant(T0 + 20), starts=1, attempt=1),
        a_task(3, status=Status.BLOCKED, wake_at=Instant(T0 + 90), starts=2, attempt=2),
        a_task(4, status=Status.IN_PROGRESS, wake_at=Instant(T0 + 40), started_at=Instant(T0 + 5), attempt=1),
    ]


def test_pauses_move_with_a_clock_that_is_set_and_dates_do_not(store: Store) -> None:
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


def test_a_coordinator_that_leads_no_more_moves_no_pauses(store: Store) -> None:
    stored(store, *waiting_tasks())
    store.epoch -= 1
    moves: tuple[Callable[[], None], ...] = (
        lambda: store.move_pauses(Micros(9), NOW, LEAD),
        lambda: store.shorten_pauses(T0, NOW, LEAD),
    )
    for move in moves:
        with pytest.raises(NotTheLeader):
            move()


def test_open_tasks_become_overdue_the_first_first(store: Store) -> None:
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


# -- dependencies ----------------------------------------------------------------------------------------------------


def depending(number: int, *above: str, met: tuple[str, ...] = ()) -> tuple[Task, frozenset[str]]:
    """A task that depends on others, and which of them it still waits for."""
    task = a_task(number, status=Status.BLOCKED, depends_on=list(above))
    return task, frozenset(above) - set(met)


def test_who_waits_for_a_task_is_known_until_its_end_is_told(store: Store) -> None:
    assert not store.any_dependencies()
    waits = [depending(2, "t1"), depending(3, "t1", "t2"), depending(4, "t0", met=("t0",))]
    stored(store, a_task(1), *(task for task, _ in waits), waits=waits)
    assert store.any_dependencies()
    asked = ["t0", "t1", "t2", "t3"]
    assert waiting(store, asked) == {"t1": ["t2", "t3"], "t2": ["t3"]}
    commit(store, StateChanges(met=["t1"]))
    assert waiting(store, asked) == {"t2": ["t3"]}
    assert store.waiting_for([]) == {}


def test_the_end_of_a_dependency_counts_in_the_batch_in_which_its_dependent_is_new(store: Store) -> None:
    task, unmet = depending(2, "t1")
    commit(store, StateChanges(new=[task], waits=[(task, unmet)], met=["t1"]))
    assert store.waiting_for(["t1"]) == {}


def waiting(store: Store, ids: list[str]) -> dict[str, list[str]]:
    return {task_id: sorted(others) for task_id, others in store.waiting_for(ids).items()}


def test_ancestry_is_all_that_a_task_builds_on(store: Store) -> None:
    waits = [depending(2, "t1"), depending(3, "t2", "t1"), depending(4, "t3", "ghost"), depending(9, "t8")]
    stored(store, a_task(1), *(task for task, _ in waits), waits=waits)
    assert store.ancestry(["t4"]) == {"t4": ["ghost", "t3"], "t3": ["t1", "t2"], "t2": ["t1"]}
    assert store.ancestry(["t2", "t9"]) == {"t2": ["t1"], "t9": ["t8"]}
    assert store.ancestry(["t1", "ghost"]) == {}
    assert store.ancestry([]) == {}


def test_ancestry_ends_even_in_a_circle(store: Store) -> None:
    waits = [depending(1, "t2"), depending(2, "t1")]
    stored(store, *(task for task, _ in waits), waits=waits)
    assert store.ancestry(["t1"]) == {"t1": ["t2"], "t2": ["t1"]}


def test_ancestry_of_a_long_row_of_tasks_is_found(store: Store) -> None:
    waits = [depending(n, f"t{n - 1}") for n in range(2, 1001)]
    stored(store, *(task for task, _ in waits), waits=waits)
    assert len(store.ancestry(["t1000"])) == 999


# -- LLMs and the outbox ---------------------------------------------------------------------------------------------


def test_an_llm_comes_back_with_its_instances_and_without_leases(store: Store) -> None:
    llm = LLM(
        name="atlas",
        model="ollama:llama3.2",
        skills={"python": 0.25, "c++": 1.0},
        description="good at 日本",
        last_seen=T0,
        told_skills={"python": 1.0},
        skills_given={"python": 0.25, "c++": 1.0},
        labels=["local"],
        paused=True,
        slots_limit=1,
        instances={
            "i1": Instance("i1", 2, Instant(T0 + 9), control="llm.atlas.i1.2"),
            "i2": Instance("i2", 3, Instant(T0 + 9), draining=True),
        },
    )
    llm.unclaimed.add("t1")
    llm.learned.learn(["python"], 5000, Micros(7_000_000), T0)
    commit(store, StateChanges(llms={"atlas": llm, "boreas": LLM("boreas")}))
    atlas, boreas = sorted(store.llms(), key=lambda it: it.name)
    assert (atlas.model, atlas.skills, atlas.description) == ("ollama:llama3.2", llm.skills, "good at 日本")
    assert (atlas.last_seen, atlas.taken, atlas.slots, atlas.slots_limit) == (T0, 0, 1, 1)
    assert (atlas.told_skills, atlas.skills_given) == ({"python": 1.0}, {"python": 0.25, "c++": 1.0})
    assert (atlas.labels, atlas.paused, atlas.state) == (["local"], True, "paused")
    assert atlas.learned.plain() == llm.learned.plain()
    assert [(i.id, i.slots, i.draining, i.control, i.lease_until) for i in atlas.instances.values()] == [
        ("i1", 2, False, "llm.atlas.i1.2", 0),
        ("i2", 3, True, None, 0),
    ]
    assert (boreas.state, boreas.skills_given, boreas.slots_limit) == ("offline", None, None)
    llm.instances.clear()
    commit(store, StateChanges(llms={"atlas": llm}))
    assert [it.state for it in store.llms()] == ["offline", "offline"]


def test_the_outbox_keeps_batches_in_order_until_they_are_sent(store: Store) -> None:
    first, second, third = (commit(store, outbox=f"batch {n}") for n in (1, 2, 3))
    assert first
    assert second
    assert store.unsent() == [(first, "batch 1"), (second, "batch 2"), (third, "batch 3")]
    assert commit(store, sent=[first, second]) is None
    assert store.unsent() == [(third, "batch 3")]
    assert commit(store, sent=[first], outbox="batch 4")
    assert [text_ for _, text_ in store.unsent()] == ["batch 3", "batch 4"]


def test_durations_and_moments_are_whole_microseconds(store: Store) -> None:
    run = seconds(0.1) + seconds(0.2)
    stored(store, a_task(1, duration=run, started_at=Instant(T0 + 1)))
    [again] = store.load(["t1"])
    assert (again.duration, again.started_at) == (300_000, T0 + 1)
