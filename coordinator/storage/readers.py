"""What the leading coordinator reads from the database: tasks, dependencies, LLMs, notes, the outbox."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic_core import from_json
from sqlalchemy import Connection, case, func, select

from broker.protocol.chat import numbered
from broker.protocol.status import Status
from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.budgets.budget import Budget
from coordinator.core.events import NEVER, SubmitterNote
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import Attempt, Rank, Task
from coordinator.storage import accounts, schema
from coordinator.storage.bulk_sql import rows_with
from coordinator.storage.engine import Transactions
from coordinator.storage.periods import closed_until
from coordinator.storage.rows import Row, attempt_of, llm_of, task_of

T = TypeVar("T")

WITH_AN_LLM = (Status.ASSIGNED.value, Status.IN_PROGRESS.value)
_CHUNK = 500  # ids in one IN (…)

_tasks, _attempts, _dependencies = schema.tasks, schema.attempts, schema.dependencies
_llms, _messages, _notes, _outbox = schema.llms, schema.messages, schema.notes, schema.outbox
_ATTEMPT_COLUMNS = [column for column in _attempts.c if column.name != "result"]  # results are large and rarely needed


class StoreReader(Transactions):
    """The reads of a Store, each in its own transaction."""

    def load(self, ids: Iterable[str]) -> list[Task]:
        """Return the tasks with these ids. Ids without a task are ignored."""
        with self._transaction(single_read=True) as connection:
            return tasks_of(connection, rows_with(connection, _tasks, "id", ids))

    def in_hand(self) -> list[Task]:
        """Return every task that is assigned or running."""
        with self._transaction() as connection:
            return self._read(connection, schema.is_in_hand)

    def lane(self, lane: str, after: Rank, limit: int) -> list[Task]:
        """Return the first pending tasks of a lane that rank below `after`, in order of rank."""
        order = (_tasks.c.priority.desc(), _tasks.c.due_order, _tasks.c.seq)
        priority, due_order, seq = -after[0], after[1], after[2]
        lower = _tasks.c.priority < priority
        later = (_tasks.c.due_order > due_order) | ((_tasks.c.due_order == due_order) & (_tasks.c.seq > seq))
        wanted = schema.is_pending & (_tasks.c.lane == lane)
        wanted &= (_tasks.c.priority <= priority) & (lower | later)  # the first condition is the start in the index
        with self._transaction() as connection:
            return self._read(connection, wanted, *order, limit=limit)

    def lanes(self) -> list[str]:
        """Return every lane that has a pending task. Skips from lane to lane in the index, however many tasks wait."""
        first = select(func.min(_tasks.c.lane)).where(schema.is_pending)
        found: list[str] = []
        with self._transaction() as connection:
            lane = connection.scalar(first)
            while lane is not None:
                found.append(lane)
                lane = connection.scalar(first.where(_tasks.c.lane > lane))
        return found

    def waking(self, now: Instant, limit: int) -> list[Task]:
        """Return blocked tasks that wait only for a moment which has passed."""
        with self._transaction() as connection:
            passed = schema.waits_for_a_moment & (_tasks.c.wake_at <= now)
            return self._read(connection, passed, _tasks.c.wake_at, limit=limit)

    def next_wake(self, after: Instant = EPOCH) -> Instant:
        """Return when the next blocked task wakes; NEVER when none does."""
        with self._transaction() as connection:
            later = schema.waits_for_a_moment & (_tasks.c.wake_at > after)
            when = connection.scalar(select(func.min(_tasks.c.wake_at)).where(later))
            return NEVER if when is None else Instant(when)

    def overdue(self, now: Instant, limit: int) -> list[Task]:
        """Return open tasks whose due date has passed and that are not marked overdue yet."""
        with self._transaction() as connection:
            late = schema.may_become_overdue & (_tasks.c.due_order <= now)
            return self._read(connection, late, _tasks.c.due_order, limit=limit)

    def next_due(self, after: Instant = EPOCH) -> Instant:
        """Return when the next open task becomes overdue; NEVER when none does."""
        with self._transaction() as connection:
            open_ones = schema.may_become_overdue & (_tasks.c.due_order > after)
            when = connection.scalar(select(func.min(_tasks.c.due_order)).where(open_ones))
            return NEVER if when is None else Instant(when)

    def waiting_for(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the tasks that still wait for each of these tasks; ids without dependents are left out."""
        found: dict[str, list[str]] = {}
        with self._transaction(single_read=True) as connection:
            for row in rows_with(connection, _dependencies, "depends_on", ids):
                if not row["met"]:
                    found.setdefault(row["depends_on"], []).append(row["task_id"])
        return found

    def ancestry(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """Return the direct dependencies of these tasks and, recursively, of their dependencies, by task id."""
        found: dict[str, set[str]] = {}
        with self._transaction() as connection:
            for chunk in chunks(list(ids)):
                edges = select(_dependencies.c.task_id, _dependencies.c.depends_on)
                above = edges.where(_dependencies.c.task_id.in_(chunk)).cte(recursive=True)
                above = above.union(edges.join(above, _dependencies.c.task_id == above.c.depends_on))
                for task_id, depends_on in connection.execute(select(above)):
                    found.setdefault(task_id, set()).add(depends_on)
        return {task_id: sorted(depends_on) for task_id, depends_on in found.items()}

    def children(self, ids: Sequence[str], *, live: bool = False) -> dict[str, list[str]]:
        """Return the ids of the children of each of these tasks; with `live`, only of those that are not final."""
        found: dict[str, list[str]] = {}
        with self._transaction(single_read=True) as connection:
            for chunk in chunks(list(ids)):
                theirs = schema.is_child & _tasks.c.parent_id.in_(chunk)
                if live:
                    theirs &= _tasks.c.finished_at.is_(None)
                for row in connection.execute(select(_tasks.c.id, _tasks.c.parent_id).where(theirs)):
                    found.setdefault(row.parent_id, []).append(row.id)
        return found

    def lineage(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of these tasks and of all their ancestors by `parent_id`."""
        with self._transaction() as connection:
            return lineage(connection, ids)

    def any_children(self) -> bool:
        """Return whether any task has a parent."""
        with self._transaction() as connection:
            return connection.scalar(select(_tasks.c.id).where(schema.is_child).limit(1)) is not None

    def any_dependencies(self) -> bool:
        """Return whether any task depends on another."""
        with self._transaction() as connection:
            return connection.scalar(select(_dependencies.c.task_id).limit(1)) is not None

    def notes(self, board: str, content_of: str | None = None) -> list[SubmitterNote]:
        """Return the notes of a board; only the note named `content_of` carries its content."""
        content = case((_notes.c.name == content_of, _notes.c.content))
        wanted = select(_notes.c.board, _notes.c.name, content, _notes.c.by, _notes.c.at)
        with self._transaction() as connection:
            return [SubmitterNote(*row) for row in connection.execute(wanted.where(_notes.c.board == board))]

    def repeats(self, message_id: str) -> int:
        """Return how many messages have this id, or this id and a number (broker.protocol.chat.numbered)."""
        found, size = 0, 8
        with self._transaction(single_read=True) as connection:
            while True:
                ids = [numbered(message_id, found + number) for number in range(1, size + 1)]
                present = len(rows_with(connection, _messages, "id", ids))
                found += present
                if present < size:
                    return found
                size *= 4

    def llms(self) -> list[LLM]:
        """Return every LLM that has ever connected."""
        with self._transaction() as connection:
            return [llm_of(row) for row in connection.execute(select(_llms)).mappings()]

    def limits(self) -> list[RateLimit]:
        """Return every rate limit that was closed, paused or given figures."""
        with self._transaction() as connection:
            return limits_of(connection)

    def budgets(self) -> list[Budget]:
        """Return the named budgets."""
        with self._transaction() as connection:
            return accounts.budgets(connection)

    def accounts(self, keys: Iterable[AccountKey]) -> list[Account]:
        """Return the accounts with these keys, where they exist."""
        with self._transaction(single_read=True) as connection:
            return accounts.with_keys(connection, keys)

    def accounts_since(self, starts: Mapping[str, Instant]) -> list[Account]:
        """Return the accounts of these budgets whose periods begin then, or later, and those that are open."""
        with self._transaction() as connection:
            return accounts.since(connection, starts)

    def spending_stopped(self) -> str | None:
        """Return the reason while all spending is stopped, else None."""
        with self._transaction() as connection:
            return accounts.spending_stopped(connection)

    def last_seq(self) -> int:
        """Return the number of the newest task; 0 when there is none."""
        with self._transaction() as connection:
            return connection.scalar(select(func.max(_tasks.c.seq))) or 0

    def unsent(self) -> list[tuple[int, str]]:
        """Return the outbox batches that may not be published yet, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_outbox).order_by(_outbox.c.batch))
            return [(row.batch, row.messages) for row in rows]

    def closed_until(self) -> Instant:
        """Return the end of the newest closed period of the reports."""
        with self._transaction() as connection:
            return closed_until(connection)

    def _read(self, connection: Connection, where: Any, *order: Any, limit: int | None = None) -> list[Task]:
        rows = connection.execute(select(_tasks).where(where).order_by(*order).limit(limit)).mappings().all()
        return tasks_of(connection, rows)


def tasks_of(connection: Connection, rows: Sequence[Row], *, latest: int | None = None) -> list[Task]:
    """Return the tasks of full rows, each with all its attempts, or with the `latest` ones."""
    tried = [row["seq"] for row in rows if row["attempt"] > (1 if row["status"] in WITH_AN_LLM else 0)]
    ended: dict[int, list[Attempt]] = {}
    for chunk in chunks(tried):
        theirs = select(*_ATTEMPT_COLUMNS).where(_attempts.c.task_seq.in_(chunk)).order_by(_attempts.c.attempt)
        if latest is not None:
            newest = _attempts.c.attempt > _tasks.c.attempt - latest
            theirs = theirs.join(_tasks, _tasks.c.seq == _attempts.c.task_seq).where(newest)
        for row in connection.execute(theirs).mappings():
            ended.setdefault(row["task_seq"], []).append(attempt_of(row))
    return [task_of(row, ended.get(row["seq"], [])) for row in rows]


def lineage(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Return the ids of these tasks and of all their ancestors by `parent_id`."""
    found: set[str] = set()
    for chunk in chunks(list(ids)):
        parents = select(_tasks.c.id, _tasks.c.parent_id)
        above = parents.where(_tasks.c.id.in_(chunk)).cte(recursive=True)
        above = above.union(parents.join(above, _tasks.c.id == above.c.parent_id))
        found.update(connection.scalars(select(above.c.id)))
    return found


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in slices that fit into one IN (…)."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def limits_of(connection: Connection) -> list[RateLimit]:
    """Return the stored rate limits."""
    rows = connection.execute(select(schema.limits)).all()
    return [RateLimit.from_plain(name, from_json(state)) for name, state in rows]
