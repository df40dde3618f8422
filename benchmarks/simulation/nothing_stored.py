"""The database of a simulation: the machine's memory holds every task that is not over, except during a pause."""

from collections.abc import Iterable, Mapping, Sequence

from broker.timestamps import Instant
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.events import NEVER, SubmitterNote
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Rank, Task


class NothingStored:
    """A TaskLoader that finds nothing."""

    def load(self, ids: Iterable[str]) -> list[Task]:
        """See TaskLoader, as for all others."""
        return []

    def lane(self, key: str, after: Rank, limit: int) -> list[Task]:
        """No lane has more tasks than memory holds."""
        return []

    def waking(self, now: Instant, limit: int) -> list[Task]:
        """No task waits for a time."""
        return []

    def overdue(self, now: Instant, limit: int) -> list[Task]:
        """No task is reported as overdue."""
        return []

    def next_wake(self, *, after: Instant) -> Instant:
        """Never."""
        return NEVER

    def next_due(self, *, after: Instant) -> Instant:
        """Never."""
        return NEVER

    def waiting_for(self, ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """No task depends on another."""
        return {}

    def children(self, ids: Sequence[str], *, live: bool = False) -> Mapping[str, Sequence[str]]:
        """No task has a parent."""
        return {}

    def lineage(self, ids: Iterable[str]) -> set[str]:
        """No task has a parent."""
        return set()

    def ancestry(self, ids: Iterable[str]) -> Mapping[str, Sequence[str]]:
        """No task depends on another."""
        return {}

    def notes(self, board: str, content_of: str | None = None) -> Sequence[SubmitterNote]:
        """No board has notes."""
        return ()

    def repeats(self, message_id: str) -> int:
        """No message was sent."""
        return 0

    def accounts(self, keys: Iterable[AccountKey]) -> list[Account]:
        return []

    def accounts_since(self, starts: Mapping[str, Instant]) -> list[Account]:
        return []


class PausesStored(NothingStored):
    """Keeps the tasks that wait for their next attempt after one has failed."""

    def __init__(self) -> None:
        self._waiting: dict[str, Task] = {}

    def keep(self, changes: StateChanges) -> None:
        """Store what a batch changed."""
        for task in changes.changed.values():
            if task.wake_at is None:
                self._waiting.pop(task.id, None)
            else:
                self._waiting[task.id] = task

    def load(self, ids: Iterable[str]) -> list[Task]:
        """See TaskLoader, as for all others."""
        return [self._waiting[task_id] for task_id in ids if task_id in self._waiting]

    def waking(self, now: Instant, limit: int) -> list[Task]:
        """The tasks whose pause is over."""
        woken = [task for task in self._waiting.values() if task.wake_at is not None and task.wake_at <= now]
        return sorted(woken, key=lambda task: task.wake_at or now)[:limit]

    def next_wake(self, *, after: Instant) -> Instant:
        """When the next pause is over."""
        wakes = [task.wake_at for task in self._waiting.values() if task.wake_at is not None and task.wake_at > after]
        return min(wakes, default=NEVER)
