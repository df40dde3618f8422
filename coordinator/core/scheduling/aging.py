"""Aging: which ready task has waited for the longest time."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from broker.timestamps import Instant
from coordinator.core.tasks.task import NO_DUE_DATE, Rank, Task

FRESH = 0.4  # share of the time from ready to due in which a task counts as fresh
SPARE = 100  # stale entries that are kept, besides as many as there are tasks

Age = tuple[int, Instant, str]
"""For order: the priority, a moment, the id."""


class Aging:
    """The tasks of a lane by their waiting time; `members` are the present tasks.

    Entries of tasks that left or changed are dropped when they reach the top.
    """

    def __init__(self, members: dict[str, Task]) -> None:
        self._members = members
        self._fresh: list[Age] = []  # heap, by when a task with a due date stops being fresh
        self._aged: list[Age] = []  # heap, by since when it waits

    def put(self, task: Task) -> None:
        """Add a task, or one that changed."""
        if len(self._fresh) + len(self._aged) > 2 * len(self._members) + SPARE:
            self._fresh = [age for age in self._fresh if self._is_current(_ages_at, age)]
            self._aged = [age for age in self._aged if self._is_current(_since, age)]
            heapify(self._fresh)
            heapify(self._aged)
        if task.due is None:
            heappush(self._aged, _since(task))
        else:
            heappush(self._fresh, _ages_at(task))

    def take_oldest(self, now: Instant, before: Instant) -> Task | None:
        """Return the oldest task of the highest priority, if it waits since before that time.

        A task with a due date counts once the share FRESH of its time is over. Each task is returned once.
        """
        fresh, aged = self._fresh, self._aged
        while fresh and (fresh[0][1] <= now or not self._is_current(_ages_at, fresh[0])):
            age = heappop(fresh)
            if self._is_current(_ages_at, age):
                heappush(aged, _since(self._members[age[2]]))
        while aged and (aged[0][1] < before or not self._is_current(_since, aged[0])):
            age = heappop(aged)
            if not self._is_current(_since, age):
                continue
            task = self._members[age[2]]
            if task.due is None or _ages_at(task)[1] <= now:
                return task
        return None

    def _is_current(self, what: Callable[[Task], Age], age: Age) -> bool:
        task = self._members.get(age[2])
        return task is not None and what(task) == age


def _since(task: Task) -> Age:
    return (-task.priority, task.ready_at or task.submitted_at, task.id)


def _ages_at(task: Task) -> Age:
    priority, since, task_id = _since(task)
    return (priority, Instant(since + round(FRESH * ((task.due or since) - since))), task_id)


def early(task: Task) -> Rank:
    """Return the place of a task that has waited for long: before every due date of its priority."""
    return (-task.priority, _since(task)[1] - NO_DUE_DATE, task.seq)
