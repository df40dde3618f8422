"""Tasks, attempts, LLMs and outbox batches: what is stored is loaded again unchanged."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from broker.errors import DecodeError
from broker.protocol.primitives import decode
from broker.protocol.status import Outcome, Status
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant, Micros, from_datetime, seconds
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.scheduling.ready_queue import NOTHING
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Change, OpenQuestion, Task
from coordinator.storage.schema import labels
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import ATTEMPT, NOW, a_task, commit, stored


def fields_of(task: Task) -> dict[str, Any]:
    """Return every stored field of a task. The id is a column, not part of the spec."""
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


def test_a_stored_task_is_loaded_unchanged(store: Store) -> None:
    task = a_full_task()
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT)]))
    [again] = store.load(["full"])
    assert fields_of(again) == fields_of(task)
    assert (again.rank, again.lane, again.due) == (
        task.rank,
        task.lane,
        from_datetime(datetime(2026, 12, 1, 7, tzinfo=UTC)),
    )


def test_a_task_with_only_a_description_is_loaded_unchanged(store: Store) -> None:
    task = a_task(1)
    stored(store, task)
    [again] = store.load(["t1"])
    assert fields_of(again) == fields_of(task)


@pytest.mark.parametrize("result", [0, False, "", [], {}, "null", 10**30, -1.5e-300, [[[]]]])
def test_a_falsy_result_is_not_loaded_as_none(store: Store, result: Any) -> None:
    task = a_task(1, status=Status.COMPLETED, result=result, inputs=result)
    stored(store, task)
    [again] = store.load(["t1"])
    assert (again.result, again.spec.inputs) == (result, result)
    assert type(again.result) is type(result)


def test_the_deepest_accepted_nesting_is_loaded_unchanged(store: Store) -> None:
    spec = decode(Submission, b'{"description": "x", "inputs": %s%s}' % (b"[" * 100, b"]" * 100))
    stored(store, Task(id="t", seq=1, spec=spec, status=Status.PENDING, priority=4, submitted_at=T0))
    assert store.load(["t"])[0].spec.inputs == spec.inputs


def test_a_megabyte_of_inputs_is_loaded_unchanged(store: Store) -> None:
    words = "écureuil " * 100_000
    stored(store, a_task(1, inputs=words))
    assert store.load(["t1"])[0].spec.inputs == words


def test_a_changed_task_is_loaded_with_its_changes(store: Store) -> None:
    task = a_task(1, reply_to="old", labels=["red"])
    stored(store, task)
    task.status, task.llm, task.attempt, task.reply_to = Status.ASSIGNED, "atlas", 1, "new"
    task.result, task.history = ["done"], [Change(NOW, "ana", "moved")]
    commit(store, StateChanges(changed={"t1": task}))
    [again] = store.load(["t1"])
    assert fields_of(again) == fields_of(task)


def test_a_task_with_a_changed_submission_is_loaded_with_it(store: Store) -> None:
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


def test_ids_without_a_task_are_ignored_when_loading(store: Store) -> None:
    stored(store, *(a_task(n) for n in range(1, 1201)))
    asked = [f"t{n}" for n in range(1, 3001)]
    assert {task.id for task in store.load(asked)} == set(asked[:1200])
    assert store.load([]) == []


def test_task_ids_are_case_sensitive(store: Store) -> None:
    stored(store, a_task(1, id="Task"), a_task(2, id="task"))
    assert [task.seq for task in store.load(["task"])] == [2]


def test_the_number_of_the_newest_task_is_known(store: Store) -> None:
    assert store.last_seq() == 0
    stored(store, a_task(3), a_task(2))
    assert store.last_seq() == 3


def test_a_lone_surrogate_is_rejected() -> None:
    with pytest.raises(DecodeError, match="Invalid JSON"):
        decode(Submission, rb'{"description": "\ud800"}')


def test_attempts_are_loaded_in_order(store: Store) -> None:
    task = a_task(1, attempt=3, status=Status.ASSIGNED, llm="atlas")
    first, second = ATTEMPT, dataclasses.replace(ATTEMPT, attempt=2, error=None, usage=None, instance=None)
    commit(store, StateChanges(new=[task], attempts=[(task, second), (task, first)]))
    assert store.load(["t1"])[0].attempts == [first, second]


def test_an_attempt_that_is_stored_again_is_replaced(store: Store) -> None:
    task = a_task(1, attempt=1)
    late = dataclasses.replace(ATTEMPT, outcome=Outcome.COMPLETED, error=None, usage=None)
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT)]))
    commit(store, StateChanges(attempts=[(task, late)]))
    assert store.load(["t1"])[0].attempts == [late]


def test_the_last_state_of_an_attempt_in_a_batch_is_stored(store: Store) -> None:
    task = a_task(1, attempt=1)
    late = dataclasses.replace(ATTEMPT, outcome=Outcome.COMPLETED)
    commit(store, StateChanges(new=[task], attempts=[(task, ATTEMPT), (task, late)]))
    assert store.load(["t1"])[0].attempts == [late]


def test_an_llm_is_loaded_with_its_instances_and_without_leases(store: Store) -> None:
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


def test_the_outbox_returns_unsent_batches_in_order(store: Store) -> None:
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
