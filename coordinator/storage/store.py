"""The database: the truth about tasks. One code for SQLite and PostgreSQL, written with SQLAlchemy Core.

A `Store` is used by one thread at a time. Whatever the database cannot do at the moment is StoreUnavailable: nothing
may be assumed about the transaction then, and all of it can be done again.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic_core import to_json
from sqlalchemy import ClauseElement, Connection, Engine, Table, bindparam, case, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from broker.errors import NotTheLeader, StoreError, StoreUnavailable
from broker.protocol.chat import in_order, numbered
from broker.protocol.status import Status
from broker.timestamps import EPOCH, Instant, Micros
from coordinator.core.events import NEVER, SubmitterNote
from coordinator.core.llms.llm import LLM
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Attempt, Rank, Task
from coordinator.queries.reports import closing
from coordinator.storage import schema
from coordinator.storage.bulk_sql import delete_rows, insert_rows, keep_rows, rows_with, update_rows, upsert_rows
from coordinator.storage.engine import EACH_ALONE
from coordinator.storage.leader_lease import Lease
from coordinator.storage.rows import (
    Row,
    attempt_of,
    attempt_row,
    changing_row,
    llm_of,
    llm_row,
    message_row,
    specified_row,
    task_of,
    task_row,
)

T = TypeVar("T")

WITH_AN_LLM = (Status.ASSIGNED.value, Status.IN_PROGRESS.value)
TOO_MUCH = "54"  # PostgreSQL's class of errors for what is too large or too complex
_CHUNK = 500  # ids in one IN (…)

_tasks, _attempts, _dependencies = schema.tasks, schema.attempts, schema.dependencies
_labels, _skills, _llms = schema.labels, schema.skills, schema.llms
_outbox, _leader = schema.outbox, schema.leader
_messages, _notes = schema.messages, schema.notes
_OF_AN_ATTEMPT = [column for column in _attempts.c if column.name != "result"]  # that is large, and for one look only

# Statements of every batch, built once: building one costs more than running it.
_extend_lease = update(_leader).where(_leader.c.epoch == bindparam("mine")).values(expires_at=bindparam("until"))
_post = insert(_outbox).values(messages=bindparam("text")).returning(_outbox.c.batch)


@contextmanager
def database_errors() -> Iterator[None]:
    """The driver's errors as StoreUnavailable, or StoreError when trying again cannot help: it refuses the data."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise StoreError(f"the database refuses the data: {error.orig}") from error
    except DBAPIError as error:
        if (getattr(error.orig, "sqlstate", None) or "").startswith(TOO_MUCH):
            raise StoreError(f"the database refuses the data: {error.orig}") from error
        raise StoreUnavailable(f"the database cannot be used at the moment: {error.orig}") from error


class Store:
    """Reads and writes of one coordinator. `epoch` is its term as the leader; a write in another's term fails."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.epoch = 0
        self._connection: Connection | None = None
        # These run in every batch, and go to the driver as they are.
        self._extend_lease = _text(engine, _extend_lease)
        self._post = _text(engine, _post)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.engine.dispose()

    @contextmanager
    def _transaction(self, *, look: bool = False) -> Iterator[Connection]:
        """A transaction by a connection that is kept from one to the next, until the database is away.

        For one look SQLite needs none: nobody else writes, or the next commit finds that this one leads no more.
        """
        with database_errors():
            connection = self._connection = self._connection or self.engine.connect()
            connection.info[EACH_ALONE] = look
            try:
                with connection.begin():
                    yield connection
            except DBAPIError:
                self._connection = None
                connection.invalidate()
                connection.close()
                raise

    # -- leadership ------------------------------------------------------------------------------------------------

    def take_lead(self, holder: str, now: Instant, lease: Micros, over: Lease | None = None) -> bool:
        """Become the leader if nobody is, or if the lease is still the one that the caller found to be `over`."""
        with self._transaction() as connection:
            nobody = {"id": 1, "holder": "", "epoch": 0, "expires_at": 0}
            connection.execute(_insert(self.engine, _leader).on_conflict_do_nothing(), nobody)
            row = connection.execute(select(_leader).with_for_update()).mappings().one()
            if row["holder"] not in ("", holder) and _lease_of(row) != over:
                return False
            epoch = row["epoch"] + 1
            connection.execute(update(_leader).values(holder=holder, epoch=epoch, expires_at=now + lease))
        self.epoch = epoch  # now that it is committed
        return True

    def leader(self) -> Lease | None:
        """Who leads, or led last and has not given the lead up."""
        with self._transaction() as connection:
            row = connection.execute(select(_leader).where(_leader.c.holder != "")).mappings().first()
            return None if row is None else _lease_of(row)

    def keep_lead(self, now: Instant, lease: Micros) -> None:
        """Extend the lease. Raises NotTheLeader when another coordinator has taken over."""
        with self._transaction() as connection:
            self._extend(connection, now, lease)

    def give_up_lead(self) -> None:
        """Let another one lead at once."""
        with self._transaction() as connection:
            connection.execute(update(_leader).where(_leader.c.epoch == self.epoch).values(holder=""))

    def _extend(self, connection: Connection, now: Instant, lease: Micros) -> None:
        if connection.exec_driver_sql(self._extend_lease, {"mine": self.epoch, "until": now + lease}).rowcount != 1:
            raise NotTheLeader

    # -- writing ---------------------------------------------------------------------------------------------------

    def commit(
        self, changes: StateChanges, *, outbox: str | None, sent: Sequence[int], now: Instant, lease: Micros
    ) -> int | None:
        """Store the changes of a batch, put `outbox` into the outbox and take the batches `sent` out of it.

        All of it or nothing. Returns the number of the outbox row. Raises NotTheLeader and StoreUnavailable.
        """
        with self._transaction() as connection:
            self._extend(connection, now, lease)
            delete_rows(connection, _outbox, [{"batch": batch} for batch in sent])
            self._write_tasks(connection, changes)
            upsert_rows(connection, _attempts, [attempt_row(task, attempt) for task, attempt in changes.attempts])
            self._write_earlier_results(connection, changes)
            self._write_dependencies(connection, changes)
            delete_rows(connection, _llms, [{"name": name} for name in changes.forgotten])
            upsert_rows(connection, _llms, [llm_row(llm) for llm in changes.llms.values()])
            self._write_messages(connection, changes)
            slots = [{"llm": llm, "at": at, "slots": count} for llm, (at, count) in changes.slots.items()]
            upsert_rows(connection, schema.llm_slots, slots)
            upsert_rows(connection, _notes, [note._asdict() for note in changes.notes.values()])
            self._write_reports(connection, changes)
            closing.reopen(connection, changes.undone)
            if outbox is None:
                return None
            row: int = connection.exec_driver_sql(self._post, {"text": outbox}).scalar_one()
            return row

    def close_period(self, now: Instant, lease: Micros) -> Instant | None:
        """Add up for reports what has ended, up to the moment that is returned; None when that is too little yet.

        Raises NotTheLeader and StoreUnavailable.
        """
        with self._transaction() as connection:
            self._extend(connection, now, lease)
            return closing.close_next(connection)

    def move_pauses(self, by: Micros, now: Instant, lease: Micros) -> None:
        """The clock was set by so much: pauses, and the time that groups have, are to last as long as before.

        Raises NotTheLeader and StoreUnavailable.
        """
        pausing, timed = schema.is_pausing, schema.is_timed
        with self._transaction() as connection:
            self._extend(connection, now, lease)
            connection.execute(update(_tasks).where(pausing).values(wake_at=_tasks.c.wake_at + by))
            moved = {"wake_at": _tasks.c.wake_at + by, "started_at": _tasks.c.started_at + by}
            connection.execute(update(_tasks).where(timed).values(moved))

    def shorten_pauses(self, until: Instant, now: Instant, lease: Micros) -> None:
        """No pause before the next attempt is longer than that: another coordinator may have had a wrong clock.

        Raises NotTheLeader and StoreUnavailable.
        """
        with self._transaction() as connection:
            self._extend(connection, now, lease)
            longer = schema.is_pausing & (_tasks.c.wake_at > until)
            connection.execute(update(_tasks).where(longer).values(wake_at=until))

    def closed_until(self) -> Instant:
        """What ended before that moment may have been added up."""
        with self._transaction() as connection:
            return closing.closed_until(connection)

    def _write_reports(self, connection: Connection, changes: StateChanges) -> None:
        dropped = [{"name": name} for name, report in changes.reports.items() if report.definition is None]
        delete_rows(connection, schema.reports, dropped)
        upsert_rows(
            connection,
            schema.reports,
            [
                {
                    "name": name,
                    "definition": to_json(saved.definition).decode(),
                    "saved_by": saved.by,
                    "saved_at": saved.at,
                }
                for name, saved in changes.reports.items()
                if saved.definition is not None
            ],
        )

    def _write_tasks(self, connection: Connection, changes: StateChanges) -> None:
        new = {task.id for task in changes.new}
        insert_rows(connection, _tasks, [task_row(task) for task in changes.new])
        respecified = list(changes.respecified.values())
        update_rows(connection, _tasks, [{**specified_row(task), "seq": task.seq} for task in respecified])
        for table in (_labels, _skills):
            delete_rows(connection, table, [{"task_seq": task.seq} for task in respecified])
        marked = {task.id: task for task in (*changes.new, *respecified)}.values()
        labels = [{"task_seq": task.seq, "label": label} for task in marked for label in set(task.spec.labels)]
        skills = [{"task_seq": task.seq, "skill": skill} for task in marked for skill in set(task.spec.skills)]
        insert_rows(connection, _labels, labels)
        insert_rows(connection, _skills, skills)
        changed = [task for task in changes.changed.values() if task.id not in new]
        update_rows(connection, _tasks, [{**changing_row(task), "seq": task.seq} for task in changed])

    def _write_earlier_results(self, connection: Connection, changes: StateChanges) -> None:
        for task, attempt, result in changes.earlier_results:
            its = (_attempts.c.task_seq == task.seq) & (_attempts.c.attempt == attempt)
            connection.execute(update(_attempts).where(its).values(result=to_json(result).decode()))

    def _write_dependencies(self, connection: Connection, changes: StateChanges) -> None:
        edges = [
            {"task_id": task.id, "depends_on": dependency, "met": dependency not in unmet}
            for task, unmet in changes.waits
            for dependency in set(task.spec.depends_on)
        ]
        upsert_rows(connection, _dependencies, edges)
        for chunk in _chunks(changes.met):
            connection.execute(update(_dependencies).where(_dependencies.c.depends_on.in_(chunk)).values(met=True))

    def _write_messages(self, connection: Connection, changes: StateChanges) -> None:
        keep_rows(connection, _messages, [message_row(*came) for came in changes.messages.values()])
        undelivered = [{"delivered": False, "id": message_id} for message_id in changes.undelivered]
        update_rows(connection, _messages, undelivered)
        for question, answers in changes.overtaken.items():
            self._put_in_order(connection, question, answers)

    def _put_in_order(self, connection: Connection, question: str, answers: Sequence[str]) -> None:
        """If answers stand before the question in the history, give all from the first of them on new places."""
        asked = select(_messages.c.seq, _messages.c.conversation_id).where(_messages.c.id == question)
        place, talk = connection.execute(asked).one()
        first = connection.scalar(select(func.min(_messages.c.seq)).where(_messages.c.id.in_(answers)))
        if first is None or first > place:
            return
        from_there = (_messages.c.conversation_id == talk) & (_messages.c.seq >= first)
        rows = connection.execute(delete(_messages).where(from_there).returning(_messages)).all()
        again = [row._asdict() for row in in_order(sorted(rows, key=lambda row: int(row.seq)))]
        keep_rows(connection, _messages, [{name: row[name] for name in row if name != "seq"} for row in again])

    # -- reading ---------------------------------------------------------------------------------------------------

    def load(self, ids: Iterable[str]) -> list[Task]:
        """The tasks with these ids, as far as they exist."""
        with self._transaction(look=True) as connection:
            return tasks_of(connection, rows_with(connection, _tasks, "id", ids))

    def in_hand(self) -> list[Task]:
        """Every task that an LLM has."""
        with self._transaction() as connection:
            return self._read(connection, schema.is_in_hand)

    def lane(self, lane: str, after: Rank, limit: int) -> list[Task]:
        """The first pending tasks of a lane that rank below `after`, in rank."""
        order = (_tasks.c.priority.desc(), _tasks.c.due_order, _tasks.c.seq)
        priority, due_order, seq = -after[0], after[1], after[2]
        lower = _tasks.c.priority < priority
        later = (_tasks.c.due_order > due_order) | ((_tasks.c.due_order == due_order) & (_tasks.c.seq > seq))
        wanted = schema.is_pending & (_tasks.c.lane == lane)
        wanted &= (_tasks.c.priority <= priority) & (lower | later)  # the first half tells where to begin in the index
        with self._transaction() as connection:
            return self._read(connection, wanted, *order, limit=limit)

    def lanes(self) -> list[str]:
        """Every lane that has a pending task. Skips from lane to lane in the index, however many tasks wait."""
        first = select(func.min(_tasks.c.lane)).where(schema.is_pending)
        found: list[str] = []
        with self._transaction() as connection:
            lane = connection.scalar(first)
            while lane is not None:
                found.append(lane)
                lane = connection.scalar(first.where(_tasks.c.lane > lane))
        return found

    def waking(self, now: Instant, limit: int) -> list[Task]:
        """Blocked tasks that wait for nothing but a moment that has come."""
        with self._transaction() as connection:
            come = schema.waits_for_a_moment & (_tasks.c.wake_at <= now)
            return self._read(connection, come, _tasks.c.wake_at, limit=limit)

    def next_wake(self, after: Instant = EPOCH) -> Instant:
        """When the next blocked task is to be looked at; NEVER when none is."""
        with self._transaction() as connection:
            later = schema.waits_for_a_moment & (_tasks.c.wake_at > after)
            when = connection.scalar(select(func.min(_tasks.c.wake_at)).where(later))
            return NEVER if when is None else Instant(when)

    def overdue(self, now: Instant, limit: int) -> list[Task]:
        """Open tasks whose due date has passed, and that was not told."""
        with self._transaction() as connection:
            late = schema.may_become_overdue & (_tasks.c.due_order <= now)
            return self._read(connection, late, _tasks.c.due_order, limit=limit)

    def next_due(self, after: Instant = EPOCH) -> Instant:
        """When the next open task becomes overdue; NEVER when none does."""
        with self._transaction() as connection:
            open_ones = schema.may_become_overdue & (_tasks.c.due_order > after)
            when = connection.scalar(select(func.min(_tasks.c.due_order)).where(open_ones))
            return NEVER if when is None else Instant(when)

    def waiting_for(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """For each of these tasks that others wait for: the ids of the others."""
        found: dict[str, list[str]] = {}
        with self._transaction(look=True) as connection:
            for row in rows_with(connection, _dependencies, "depends_on", ids):
                if not row["met"]:
                    found.setdefault(row["depends_on"], []).append(row["task_id"])
        return found

    def ancestry(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """What these tasks depend on, and what that depends on, and so on: task id -> ids, without those on nothing."""
        found: dict[str, set[str]] = {}
        with self._transaction() as connection:
            for chunk in _chunks(list(ids)):
                edges = select(_dependencies.c.task_id, _dependencies.c.depends_on)
                above = edges.where(_dependencies.c.task_id.in_(chunk)).cte(recursive=True)
                above = above.union(edges.join(above, _dependencies.c.task_id == above.c.depends_on))
                for task_id, depends_on in connection.execute(select(above)):
                    found.setdefault(task_id, set()).add(depends_on)
        return {task_id: sorted(depends_on) for task_id, depends_on in found.items()}

    def children(self, ids: Sequence[str], *, live: bool = False) -> dict[str, list[str]]:
        """For each of these tasks that others are part of: the ids of these, or of those that are not over."""
        found: dict[str, list[str]] = {}
        with self._transaction(look=True) as connection:
            for chunk in _chunks(list(ids)):
                theirs = schema.is_child & _tasks.c.parent_id.in_(chunk)
                if live:
                    theirs &= _tasks.c.finished_at.is_(None)
                for row in connection.execute(select(_tasks.c.id, _tasks.c.parent_id).where(theirs)):
                    found.setdefault(row.parent_id, []).append(row.id)
        return found

    def lineage(self, ids: Iterable[str]) -> set[str]:
        """The ids of these tasks, of their parents, of their parents' parents and so on."""
        with self._transaction() as connection:
            return lineage(connection, ids)

    def any_children(self) -> bool:
        """Whether any task is part of another."""
        with self._transaction() as connection:
            return connection.scalar(select(_tasks.c.id).where(schema.is_child).limit(1)) is not None

    def notes(self, board: str, content_of: str | None = None) -> list[SubmitterNote]:
        """The notes of a board, with the text of that one only."""
        content = case((_notes.c.name == content_of, _notes.c.content))
        wanted = select(_notes.c.board, _notes.c.name, content, _notes.c.by, _notes.c.at)
        with self._transaction() as connection:
            return [SubmitterNote(*row) for row in connection.execute(wanted.where(_notes.c.board == board))]

    def repeats(self, message_id: str) -> int:
        """How many messages there are with this id, or with it and a number (broker.protocol.chat.numbered)."""
        found, size = 0, 8
        with self._transaction(look=True) as connection:
            while True:
                ids = [numbered(message_id, found + number) for number in range(1, size + 1)]
                there = len(rows_with(connection, _messages, "id", ids))
                found += there
                if there < size:
                    return found
                size *= 4

    def any_dependencies(self) -> bool:
        """Whether any task depends on another."""
        with self._transaction() as connection:
            return connection.scalar(select(_dependencies.c.task_id).limit(1)) is not None

    def llms(self) -> list[LLM]:
        """Every LLM that has ever said hello."""
        with self._transaction() as connection:
            return [llm_of(row) for row in connection.execute(select(_llms)).mappings()]

    def last_seq(self) -> int:
        """The number of the newest task; 0 when there is none."""
        with self._transaction() as connection:
            return connection.scalar(select(func.max(_tasks.c.seq))) or 0

    def unsent(self) -> list[tuple[int, str]]:
        """Batches of the outbox that are not known to be published, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_outbox).order_by(_outbox.c.batch))
            return [(row.batch, row.messages) for row in rows]

    def _read(self, connection: Connection, where: Any, *order: Any, limit: int | None = None) -> list[Task]:
        rows = connection.execute(select(_tasks).where(where).order_by(*order).limit(limit)).mappings().all()
        return tasks_of(connection, rows)


def _lease_of(row: Row) -> Lease:
    return Lease(row["holder"], row["epoch"], Instant(row["expires_at"]))


def _insert(engine: Engine, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can be told what to do when the row is there already."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def _text(engine: Engine, statement: ClauseElement) -> str:
    """A statement as the driver of this database takes it, with a parameter named like each column."""
    return str(statement.compile(dialect=engine.dialect))


def tasks_of(connection: Connection, rows: Sequence[Row], *, latest: int | None = None) -> list[Task]:
    """The tasks of full rows, with their attempts, or with so many of the latest."""
    tried = [row["seq"] for row in rows if row["attempt"] > (1 if row["status"] in WITH_AN_LLM else 0)]
    ended: dict[int, list[Attempt]] = {}
    for chunk in _chunks(tried):
        theirs = select(*_OF_AN_ATTEMPT).where(_attempts.c.task_seq.in_(chunk)).order_by(_attempts.c.attempt)
        if latest is not None:
            newest = _attempts.c.attempt > _tasks.c.attempt - latest
            theirs = theirs.join(_tasks, _tasks.c.seq == _attempts.c.task_seq).where(newest)
        for row in connection.execute(theirs).mappings():
            ended.setdefault(row["task_seq"], []).append(attempt_of(row))
    return [task_of(row, ended.get(row["seq"], [])) for row in rows]


def lineage(connection: Connection, ids: Iterable[str]) -> set[str]:
    """See Store.lineage."""
    found: set[str] = set()
    for chunk in _chunks(list(ids)):
        family = select(_tasks.c.id, _tasks.c.parent_id)
        above = family.where(_tasks.c.id.in_(chunk)).cte(recursive=True)
        above = above.union(family.join(above, _tasks.c.id == above.c.parent_id))
        found.update(connection.scalars(select(above.c.id)))
    return found


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
