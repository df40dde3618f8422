"""The state of the coordinator in the database: the lead, and the writes of every batch.

The same code runs on SQLite and PostgreSQL, written with SQLAlchemy Core. The reads are in `readers.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic_core import to_json
from sqlalchemy import ClauseElement, Connection, Engine, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from broker.errors import NotTheLeader
from broker.protocol.chat import in_order
from broker.timestamps import Instant, Micros
from coordinator.core.state import StateChanges
from coordinator.storage import accounts, periods, schema
from coordinator.storage.bulk_sql import delete_rows, insert_rows, keep_rows, update_rows, upsert_rows
from coordinator.storage.leader_lease import Lease
from coordinator.storage.readers import StoreReader, chunks
from coordinator.storage.rows import (
    Row,
    attempt_row,
    changing_row,
    limit_row,
    llm_row,
    message_row,
    specified_row,
    task_row,
)

_tasks, _attempts, _dependencies = schema.tasks, schema.attempts, schema.dependencies
_labels, _skills, _llms = schema.labels, schema.skills, schema.llms
_outbox, _leader = schema.outbox, schema.leader
_messages, _notes = schema.messages, schema.notes

# Statements of every batch, built once: building one costs more than running it.
_extend_lease = update(_leader).where(_leader.c.epoch == bindparam("mine")).values(expires_at=bindparam("until"))
_insert_outbox = insert(_outbox).values(messages=bindparam("text")).returning(_outbox.c.batch)


class Store(StoreReader):
    """Reads and writes of one coordinator. `epoch` is its term as the leader; a write in a later term fails."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.epoch = 0
        # These run in every batch, compiled to text once.
        self._extend_lease = _text(engine, _extend_lease)
        self._insert_outbox = _text(engine, _insert_outbox)

    # -- leadership ------------------------------------------------------------------------------------------------

    def take_lead(self, holder: str, now: Instant, lease: Micros, over: Lease | None = None) -> bool:
        """Become the leader if there is none, or if the stored lease is still `over`, which the caller found expired.

        Returns whether this coordinator leads now.
        """
        with self._transaction() as connection:
            vacant = {"id": 1, "holder": "", "epoch": 0, "expires_at": 0}
            connection.execute(_insert(self.engine, _leader).on_conflict_do_nothing(), vacant)
            row = connection.execute(select(_leader).with_for_update()).mappings().one()
            if row["holder"] not in ("", holder) and _lease_of(row) != over:
                return False
            epoch = row["epoch"] + 1
            connection.execute(update(_leader).values(holder=holder, epoch=epoch, expires_at=now + lease))
        self.epoch = epoch  # only after the commit
        return True

    def leader(self) -> Lease | None:
        """Return the lease of the leader, or of the last one if it did not give the lead up."""
        with self._transaction() as connection:
            row = connection.execute(select(_leader).where(_leader.c.holder != "")).mappings().first()
            return None if row is None else _lease_of(row)

    def keep_lead(self, now: Instant, lease: Micros) -> None:
        """Extend the lease. Raises NotTheLeader when another coordinator has taken over."""
        with self.leading(now, lease):
            pass

    def give_up_lead(self) -> None:
        """End the lease, so that a standby can lead at once."""
        with self._transaction() as connection:
            connection.execute(update(_leader).where(_leader.c.epoch == self.epoch).values(holder=""))

    @contextmanager
    def leading(self, now: Instant, lease: Micros) -> Iterator[Connection]:
        """Run a transaction of the leader, which extends the lease. Raises NotTheLeader and StoreUnavailable."""
        with self._transaction() as connection:
            self._extend(connection, now, lease)
            yield connection

    def _extend(self, connection: Connection, now: Instant, lease: Micros) -> None:
        if connection.exec_driver_sql(self._extend_lease, {"mine": self.epoch, "until": now + lease}).rowcount != 1:
            raise NotTheLeader

    # -- writing ---------------------------------------------------------------------------------------------------

    def commit(
        self, changes: StateChanges, *, outbox: str | None, sent: Sequence[int], now: Instant, lease: Micros
    ) -> int | None:
        """Store the changes of a batch, add `outbox` to the outbox and delete the batches `sent` from it, atomically.

        Returns the number of the outbox row, None without one. Raises NotTheLeader, StoreUnavailable and StoreError.
        """
        with self.leading(now, lease) as connection:
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
            delete_rows(connection, schema.limits, [{"name": name} for name in changes.forgotten_limits])
            upsert_rows(connection, schema.limits, [limit_row(limit) for limit in changes.limits.values()])
            self._write_reports(connection, changes)
            accounts.write(connection, changes)
            periods.reopen(connection, changes.undone)
            if outbox is None:
                return None
            row: int = connection.exec_driver_sql(self._insert_outbox, {"text": outbox}).scalar_one()
            return row

    def move_pauses(self, by: Micros, now: Instant, lease: Micros) -> None:
        """Move the ends of pauses and of group timeouts by as much as the clock was set.

        Raises NotTheLeader and StoreUnavailable.
        """
        pausing, timed = schema.is_pausing, schema.is_timed
        with self.leading(now, lease) as connection:
            connection.execute(update(_tasks).where(pausing).values(wake_at=_tasks.c.wake_at + by))
            moved = {"wake_at": _tasks.c.wake_at + by, "started_at": _tasks.c.started_at + by}
            connection.execute(update(_tasks).where(timed).values(moved))

    def shorten_pauses(self, until: Instant, now: Instant, lease: Micros) -> None:
        """End every pause between attempts at `until` or before: the last coordinator may have had a wrong clock.

        Raises NotTheLeader and StoreUnavailable.
        """
        with self.leading(now, lease) as connection:
            longer = schema.is_pausing & (_tasks.c.wake_at > until)
            connection.execute(update(_tasks).where(longer).values(wake_at=until))

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
        tagged = {task.id: task for task in (*changes.new, *respecified)}.values()
        labels = [{"task_seq": task.seq, "label": label} for task in tagged for label in set(task.spec.labels)]
        skills = [{"task_seq": task.seq, "skill": skill} for task in tagged for skill in set(task.spec.skills)]
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
        for chunk in chunks(changes.met):
            connection.execute(update(_dependencies).where(_dependencies.c.depends_on.in_(chunk)).values(met=True))

    def _write_messages(self, connection: Connection, changes: StateChanges) -> None:
        keep_rows(connection, _messages, [message_row(*received) for received in changes.messages.values()])
        undelivered = [{"delivered": False, "id": message_id} for message_id in changes.undelivered]
        update_rows(connection, _messages, undelivered)
        for question, answers in changes.overtaken.items():
            self._put_in_order(connection, question, answers)

    def _put_in_order(self, connection: Connection, question: str, answers: Sequence[str]) -> None:
        """Move a question before its answers: renumber the conversation from the first answer on.

        Nothing changes when the question already comes first.
        """
        asked = select(_messages.c.seq, _messages.c.conversation_id).where(_messages.c.id == question)
        place, conversation = connection.execute(asked).one()
        first = connection.scalar(select(func.min(_messages.c.seq)).where(_messages.c.id.in_(answers)))
        if first is None or first > place:
            return
        renumbered = (_messages.c.conversation_id == conversation) & (_messages.c.seq >= first)
        rows = connection.execute(delete(_messages).where(renumbered).returning(_messages)).all()
        ordered = [row._asdict() for row in in_order(sorted(rows, key=lambda row: int(row.seq)))]
        keep_rows(connection, _messages, [{name: row[name] for name in row if name != "seq"} for row in ordered])


def _lease_of(row: Row) -> Lease:
    return Lease(row["holder"], row["epoch"], Instant(row["expires_at"]))


def _insert(engine: Engine, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that supports ON CONFLICT."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def _text(engine: Engine, statement: ClauseElement) -> str:
    """Return a statement as text for the driver of this database, with named parameters."""
    return str(statement.compile(dialect=engine.dialect))
