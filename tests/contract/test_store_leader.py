"""One coordinator leads; a batch is stored whole or not at all."""

from typing import Any

import pytest
from sqlalchemy import Engine, event

from broker.errors import NotTheLeader, StoreError, StoreUnavailable
from broker.instants import Instant
from broker.messages import Status
from coordinator.core.board import Changes
from coordinator.core.pool import LLM
from coordinator.store import Store
from tests.support.books import ATTEMPT, LEAD, NOW, a_task, commit, stored
from tests.support.core import T0


@pytest.fixture
def other(engine: Engine) -> Store:
    """Another coordinator's store on the same database."""
    return Store(engine)


def test_only_one_leads(store: Store, other: Store) -> None:
    assert store.leader() == "leader"
    assert not other.take_lead("other", NOW, LEAD)
    assert other.leader() == "leader"


def test_nobody_leads_at_first(engine: Engine) -> None:
    store = Store(engine)
    assert store.leader() is None
    with pytest.raises(NotTheLeader):
        commit(store)


def test_another_one_takes_over_when_the_lease_has_run_out(store: Store, other: Store) -> None:
    assert not other.take_lead("other", Instant(T0 + LEAD - 1), LEAD)
    assert other.take_lead("other", Instant(T0 + LEAD), LEAD)
    assert other.leader() == "other"
    commit(other)


def test_another_one_takes_over_at_once_from_one_that_is_gone(store: Store, other: Store) -> None:
    assert other.take_lead("other", NOW, LEAD, gone=["leader"])


def test_another_one_takes_over_at_once_when_the_lead_is_given_up(store: Store, other: Store) -> None:
    store.give_up_lead(NOW)
    assert other.take_lead("other", NOW, LEAD)


def test_who_leads_may_take_the_lead_again(store: Store) -> None:
    assert store.take_lead("leader", NOW, LEAD)
    commit(store)


def test_every_commit_extends_the_lease(store: Store, other: Store) -> None:
    commit(store, now=Instant(T0 + 3_000_000))
    assert not other.take_lead("other", Instant(T0 + LEAD), LEAD)
    store.keep_lead(Instant(T0 + 6_000_000), LEAD)
    assert not other.take_lead("other", Instant(T0 + 10_999_999), LEAD)


def test_an_old_leader_changes_nothing_any_more(store: Store, other: Store) -> None:
    number = commit(store, Changes(new=[a_task(1)]), outbox="old")
    assert other.take_lead("other", Instant(T0 + 2 * LEAD), LEAD)
    moved = a_task(1, status=Status.CANCELLED)
    changes = Changes(
        new=[a_task(2)], changed={"t1": moved}, attempts=[(moved, ATTEMPT)], met=["t1"], llms={"x": LLM("x")}
    )
    with pytest.raises(NotTheLeader):
        commit(store, changes, outbox="newer", sent=[number])
    with pytest.raises(NotTheLeader):
        store.keep_lead(NOW, LEAD)
    store.give_up_lead(NOW)
    assert [task.status for task in other.load(["t1", "t2"])] == [Status.PENDING]
    assert other.unsent() == [(number, "old")]
    assert other.llms() == []
    assert not store.take_lead("third", Instant(T0 + 2 * LEAD), LEAD)


def test_an_old_leader_that_leads_again_has_a_new_term(store: Store, other: Store) -> None:
    first = store.epoch
    assert other.take_lead("other", Instant(T0 + LEAD), LEAD)
    assert store.take_lead("leader", Instant(T0 + 2 * LEAD), LEAD)
    assert first < other.epoch < store.epoch
    commit(store)


# -- all or nothing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["labels", "tasks", "attempts", "dependencies", "llms", "outbox"])
def test_a_statement_that_fails_leaves_nothing_of_its_batch(store: Store, engine: Engine, table: str) -> None:
    stored(store, a_task(1))
    number = commit(store, outbox="before")
    assert number

    @event.listens_for(engine, "before_cursor_execute")
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(f"INSERT INTO {table} "):
            cursor.execute("select no_such_column")

    task, moved = a_task(2, labels=["red"], depends_on=["t9"]), a_task(1, status=Status.CANCELLED)
    changes = Changes(
        new=[task],
        changed={"t1": moved},
        attempts=[(moved, ATTEMPT)],
        waits=[(task, frozenset({"t9"}))],
        llms={"atlas": LLM("atlas")},
    )
    with pytest.raises(StoreError):
        commit(store, changes, outbox="after", sent=[number])
    event.remove(engine, "before_cursor_execute", fail)
    assert [(t.id, t.status) for t in store.load(["t1", "t2"])] == [("t1", Status.PENDING)]
    assert store.unsent() == [(number, "before")]
    assert store.llms() == []
    assert not store.any_dependencies()
    assert commit(store, changes, outbox="after", sent=[number])
    assert {t.id for t in store.load(["t1", "t2"])} == {"t1", "t2"}


def test_data_that_the_database_refuses_are_told_from_a_database_that_is_away(store: Store) -> None:
    stored(store, a_task(1))
    with pytest.raises(StoreError) as raised:
        stored(store, a_task(2, id="t1"))
    assert not isinstance(raised.value, StoreUnavailable)
