"""Leadership, and the atomicity of a batch."""

from typing import Any

import pytest
from sqlalchemy import Engine, event

from broker.errors import NotTheLeader, StoreError, StoreUnavailable
from broker.protocol.status import Status
from broker.timestamps import Instant
from coordinator.core.llms.llm import LLM
from coordinator.core.state import StateChanges
from coordinator.storage.leader_lease import Lease
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import ATTEMPT, LEAD, NOW, a_task, commit, stored


@pytest.fixture
def other(engine: Engine) -> Store:
    """Another coordinator's store on the same database."""
    return Store(engine)


def take_over(store: Store, name: str) -> bool:
    """Take the lead from its holder, as a standby that found the lease expired."""
    return store.take_lead(name, NOW, LEAD, over=store.leader())


def test_only_one_coordinator_leads(store: Store, other: Store) -> None:
    assert store.leader() == Lease("leader", store.epoch, Instant(T0 + LEAD))
    assert not other.take_lead("other", NOW, LEAD)
    assert other.leader() == store.leader()


def test_a_new_database_has_no_leader(engine: Engine) -> None:
    store = Store(engine)
    assert store.leader() is None
    with pytest.raises(NotTheLeader):
        commit(store)


def test_a_standby_takes_over_an_expired_lease(store: Store, other: Store) -> None:
    assert take_over(other, "other")
    assert other.leader() == Lease("other", other.epoch, Instant(NOW + LEAD))
    commit(other)


def test_a_lease_that_was_extended_is_not_taken_over(store: Store, other: Store) -> None:
    seen = other.leader()
    commit(store, now=Instant(T0 + 3_000_000))
    assert not other.take_lead("other", NOW, LEAD, over=seen)
    seen = other.leader()
    store.keep_lead(Instant(T0 + 6_000_000), LEAD)
    assert not other.take_lead("other", NOW, LEAD, over=seen)


def test_only_one_of_two_standbys_takes_over_an_expired_lease(store: Store, other: Store, engine: Engine) -> None:
    third, seen = Store(engine), other.leader()
    assert other.take_lead("other", NOW, LEAD, over=seen)
    assert not third.take_lead("third", NOW, LEAD, over=seen)


def test_a_standby_takes_over_at_once_when_the_lead_is_given_up(store: Store, other: Store) -> None:
    store.give_up_lead()
    assert other.leader() is None
    assert other.take_lead("other", NOW, LEAD)


def test_the_leader_may_take_the_lead_again(store: Store) -> None:
    assert store.take_lead("leader", NOW, LEAD)
    commit(store)


def test_a_former_leader_cannot_write(store: Store, other: Store) -> None:
    number = commit(store, StateChanges(new=[a_task(1)]), outbox="old")
    assert take_over(other, "other")
    moved = a_task(1, status=Status.CANCELLED)
    changes = StateChanges(
        new=[a_task(2)], changed={"t1": moved}, attempts=[(moved, ATTEMPT)], met=["t1"], llms={"x": LLM("x")}
    )
    with pytest.raises(NotTheLeader):
        commit(store, changes, outbox="newer", sent=[number])
    with pytest.raises(NotTheLeader):
        store.keep_lead(NOW, LEAD)
    store.give_up_lead()
    assert [task.status for task in other.load(["t1", "t2"])] == [Status.PENDING]
    assert other.unsent() == [(number, "old")]
    assert other.llms() == []
    assert not store.take_lead("third", NOW, LEAD)


def test_a_former_leader_that_leads_again_has_a_new_term(store: Store, other: Store) -> None:
    first = store.epoch
    assert take_over(other, "other")
    assert take_over(store, "leader")
    assert first < other.epoch < store.epoch
    commit(store)


# -- all or nothing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["labels", "tasks", "attempts", "dependencies", "llms", "outbox"])
def test_a_failed_statement_rolls_back_its_batch(store: Store, engine: Engine, table: str) -> None:
    stored(store, a_task(1))
    number = commit(store, outbox="before")
    assert number

    @event.listens_for(engine, "before_cursor_execute")
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(f"INSERT INTO {table} "):
            cursor.execute("select no_such_column")

    task, moved = a_task(2, labels=["red"], depends_on=["t9"]), a_task(1, status=Status.CANCELLED)
    changes = StateChanges(
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


def test_refused_data_and_an_unavailable_database_are_different_errors(store: Store) -> None:
    stored(store, a_task(1))
    with pytest.raises(StoreError) as raised:
        stored(store, a_task(2, id="t1"))
    assert not isinstance(raised.value, StoreUnavailable)
