"""The database of a simulation: nothing is stored, and the machine's memory holds every task that is not over."""

from collections.abc import Iterable, Mapping, Sequence

from broker.timestamps import Instant
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.events import NEVER, SubmitterNote
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
