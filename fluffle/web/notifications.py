"""Notices for visitors: tasks that failed, are overdue, or whose submitter waits for them.

Tasks that end within a few seconds share one notice with a count. An event that arrives twice counts once.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from broker.bounded_set import BoundedDict, BoundedSet
from fluffle.web.live import Update

MAX_KEPT = 50
_MERGE_WITHIN = timedelta(seconds=10)  # between two tasks that share a notice
_MAX_EVENTS_REMEMBERED = 10_000
_KINDS = {"failed": "failed", "overdue": "overdue", "completed": "finished"}


@dataclass(frozen=True, slots=True)
class Notification:
    """A notice about `count` tasks that failed, are overdue or finished. `task_id` and `description` are the latest's.

    `mine` are the sessions that own the tasks: only these see that tasks have finished.
    """

    number: int
    kind: str
    count: int
    task_id: str
    description: str
    at: datetime
    mine: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The notice in three words."""
        if self.count == 1:
            return "A task is overdue" if self.kind == "overdue" else f"A task {self.kind}"
        return f"{self.count:,} tasks {'are overdue' if self.kind == 'overdue' else self.kind}"

    def is_for(self, session: str) -> bool:
        """Return whether the visitor with this session sees the notice."""
        return self.kind != "finished" or session in self.mine


@dataclass(slots=True)
class Notifications:
    """The latest notices, newest first, and the listeners for new ones."""

    clock: Callable[[], datetime]
    latest: deque[Notification] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    listeners: set[Callable[[Notification], None]] = field(default_factory=set)
    _seen: BoundedSet[str] = field(default_factory=lambda: BoundedSet(limit=_MAX_EVENTS_REMEMBERED))
    _owners: BoundedDict[str, str] = field(default_factory=lambda: BoundedDict(_MAX_EVENTS_REMEMBERED))
    _number: int = 0

    def own(self, task_id: str, session: str) -> None:
        """Notify this session when the task ends."""
        self._owners[task_id] = session

    def on_update(self, update: Update) -> None:
        """Handle an event of a task."""
        kind = _KINDS.get(update.what)
        if kind is None or update.about != "task" or update.event_id in self._seen:
            return
        self._seen.add(update.event_id)
        owner = self._owners.pop(update.subject, None) if kind != "overdue" else None
        if kind == "finished" and owner is None:
            return
        notice = self._with(kind, update.subject, update.data, owner)
        for listener in list(self.listeners):
            listener(notice)

    def _with(self, kind: str, task_id: str, data: Any, owner: str | None) -> Notification:
        now = self.clock()
        description = str(data.get("description", "")) if isinstance(data, dict) else ""
        mine = frozenset([owner] if owner else [])
        for place, notice in enumerate(self.latest):
            if notice.kind == kind and notice.mine == mine and now - notice.at < _MERGE_WITHIN:
                del self.latest[place]
                merged = replace(notice, count=notice.count + 1, task_id=task_id, description=description, at=now)
                break
        else:
            self._number += 1
            merged = Notification(self._number, kind, 1, task_id, description, now, mine)
        self.latest.appendleft(merged)
        return merged
