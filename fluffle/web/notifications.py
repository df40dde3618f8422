"""Notices for visitors: tasks that failed, are overdue or finished; sick LLMs; limits and budgets that are used up.

What happens within a few seconds shares one notice with a count. An event that arrives twice counts once, and what
happens to the same LLM, limit or budget again within minutes is no new notice.
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
_REPEAT_WITHIN = timedelta(minutes=10)  # in which the same news about an LLM, a limit or a budget is shown once
_KINDS = {"failed": "failed", "overdue": "overdue", "completed": "finished"}
_OTHER_KINDS = {
    ("llm", "circuit_open"): "circuit_open",
    ("llm", "circuit_closed"): "circuit_closed",
    ("limit", "closed"): "limit_closed",
    ("budget", "warning"): "budget_warning",
    ("budget", "empty"): "budget_empty",
}
_TITLES = {
    "overdue": ("A task is overdue", "{count} tasks are overdue"),
    "failed": ("A task failed", "{count} tasks failed"),
    "finished": ("A task finished", "{count} tasks finished"),
    "circuit_open": ("{name} gets no tasks: it fails", "{count} LLMs get no tasks: they fail"),
    "circuit_closed": ("{name} works again", "{count} LLMs work again"),
    "limit_closed": ("The limit {name} is closed for hours", "{count} limits are closed for hours"),
    "budget_warning": ("The budget {name} is nearly used up", "{count} budgets are nearly used up"),
    "budget_empty": ("The budget {name} is used up", "{count} budgets are used up"),
}
"""The title of a notice about one thing, and about several."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A notice about `count` tasks, LLMs, limits or budgets. `subject` and `description` are the latest's.

    `subject` is the ID of the task, or the name of the LLM, limit or budget.

    `mine` are the sessions that own the tasks: only these see that tasks have finished.
    """

    number: int
    kind: str
    count: int
    subject: str
    description: str
    at: datetime
    mine: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The notice in a few words."""
        one, several = _TITLES[self.kind]
        return one.format(name=self.subject) if self.count == 1 else several.format(count=f"{self.count:,}")

    @property
    def is_about_tasks(self) -> bool:
        """Whether the notice is about tasks."""
        return self.kind in _KINDS.values()

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
    _told: BoundedDict[tuple[str, str], datetime] = field(default_factory=lambda: BoundedDict(_MAX_EVENTS_REMEMBERED))
    _number: int = 0

    def own(self, task_id: str, session: str) -> None:
        """Notify this session when the task ends."""
        self._owners[task_id] = session

    def on_update(self, update: Update) -> None:
        """Handle an event of a task, an LLM, a limit or a budget."""
        if update.event_id in self._seen:
            return
        data = update.data if isinstance(update.data, dict) else {}
        if update.about != "task":
            self._on_other(update, data)
            return
        kind = _KINDS.get(update.what)
        if kind is None:
            return
        self._seen.add(update.event_id)
        owner = self._owners.pop(update.subject, None) if kind != "overdue" else None
        if kind != "finished" or owner is not None:
            self._tell(kind, update.subject, str(data.get("description", "")), owner)

    def _on_other(self, update: Update, data: dict[str, Any]) -> None:
        kind = _OTHER_KINDS.get((update.about, update.what))
        if kind is None or (kind == "limit_closed" and data.get("tier") != "window"):
            return
        self._seen.add(update.event_id)
        name, value = str(data.get("name") or update.subject), data.get("value")
        now, key = self.clock(), (kind, f"{name} {value or ''}")
        if (before := self._told.pop(key, None)) is None or now - before >= _REPEAT_WITHIN:
            before = now
            why = str(data.get("why") or "")
            self._tell(kind, name, ": ".join(str(part) for part in (value, why) if part), None)
        self._told[key] = before

    def _tell(self, kind: str, subject: str, description: str, owner: str | None) -> None:
        notice = self._with(kind, subject, description, owner)
        for listener in list(self.listeners):
            listener(notice)

    def _with(self, kind: str, subject: str, description: str, owner: str | None) -> Notification:
        now = self.clock()
        mine = frozenset([owner] if owner else [])
        for place, notice in enumerate(self.latest):
            if notice.kind == kind and notice.mine == mine and now - notice.at < _MERGE_WITHIN:
                del self.latest[place]
                merged = replace(notice, count=notice.count + 1, subject=subject, description=description, at=now)
                break
        else:
            self._number += 1
            merged = Notification(self._number, kind, 1, subject, description, now, mine)
        self.latest.appendleft(merged)
        return merged
