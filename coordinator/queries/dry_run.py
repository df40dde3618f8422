"""The dry run of a submission: the core decides on the present state of the database, and nothing is stored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from broker.errors import QueryRejected
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.budgets.budget import Budget
from coordinator.core.budgets.loading import restore as restore_budgets
from coordinator.core.commands import Refuse
from coordinator.core.events import NEVER, Submitted, SubmitterNote
from coordinator.core.machine import Machine
from coordinator.core.tasks.task import DEFAULT_PRIORITY, Rank, Task
from coordinator.core.transaction import transaction
from coordinator.queries.waiting import why_waiting
from coordinator.storage import accounts
from coordinator.storage.readers import limits_of, lineage, tasks_of
from coordinator.storage.rows import llm_of
from coordinator.storage.schema import is_in_hand, llms, tasks

_NAME = "dry run"  # with a space, which the id of no task has


class _Snapshot:
    """Loads the tasks that a submission names, and the budgets. Nothing else of the database concerns a dry run."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def load(self, ids: Iterable[str]) -> list[Task]:
        wanted = select(tasks).where(tasks.c.id.in_(list(ids)))
        return tasks_of(self._connection, self._connection.execute(wanted).mappings().all())

    def lineage(self, ids: Iterable[str]) -> set[str]:
        return lineage(self._connection, ids)

    def lane(self, key: str, after: Rank, limit: int) -> list[Task]:
        return []

    def waking(self, now: Instant, limit: int) -> list[Task]:
        return []

    def overdue(self, now: Instant, limit: int) -> list[Task]:
        return []

    def next_wake(self, *, after: Instant) -> Instant:
        return NEVER

    def next_due(self, *, after: Instant) -> Instant:
        return NEVER

    def waiting_for(self, ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {}

    def children(self, ids: Sequence[str], *, live: bool = False) -> Mapping[str, Sequence[str]]:
        return {}

    def ancestry(self, ids: Iterable[str]) -> Mapping[str, Sequence[str]]:
        return {}

    def notes(self, board: str, content_of: str | None = None) -> Sequence[SubmitterNote]:
        return ()

    def repeats(self, message_id: str) -> int:
        return 0

    def budgets(self) -> list[Budget]:
        return accounts.budgets(self._connection)

    def accounts(self, keys: Iterable[AccountKey]) -> list[Account]:
        return accounts.with_keys(self._connection, keys)

    def accounts_since(self, starts: Mapping[str, Instant]) -> list[Account]:
        return accounts.since(self._connection, starts)

    def spending_stopped(self) -> str | None:
        return accounts.spending_stopped(self._connection)


def placement(connection: Connection, spec: Submission, machine: Machine, now: Instant) -> dict[str, Any]:
    """Return the fields of views.Placement. `machine` is a new one.

    Raises QueryRejected when the task would be refused.
    """
    in_hand = connection.execute(select(tasks).where(is_in_hand)).mappings().all()
    known = [llm_of(row) for row in connection.execute(select(llms)).mappings()]
    machine.restore(tasks_of(connection, in_hand), known, [], now, limits=limits_of(connection))
    snapshot = _Snapshot(connection)
    restore_budgets(machine.state, snapshot, now)
    priority = DEFAULT_PRIORITY if spec.priority is None else spec.priority
    with transaction(machine, snapshot, [Submitted(_NAME, spec, priority)], now) as (_, commands):
        for command in commands:
            if isinstance(command, Refuse):
                raise QueryRejected(command.problems)
        task = machine.state.tasks[_NAME]
        return {
            "status": task.status.value,
            "llm": task.llm,
            "why": task.why or why_waiting(task, machine.state.llms, now),
        }
