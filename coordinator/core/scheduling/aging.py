"""Which of the tasks that wait has waited for long."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from broker.timestamps import Instant
from coordinator.core.tasks.task import NO_DUE_DATE, Rank, Task

YOUNG = 0.4  # of the time between becoming ready and being due
SPARE = 100  # entries of tasks that have gone, besides as many as there are tasks

Age = tuple[int, Instant, str]
"""For order: the priority, a moment, the id."""


class Aging:
    """The tasks of a lane by the time for which they have waited; `members` are those that are there.

    Entries of tasks that have gone, or have become others, are found out when it is their turn.
    """

    def __init__(self, members: dict[str, Task]) -> None:
        self._members = members
        self._young: list[Age] = []  # heap, by when a task with a due date stops being young
        self._old: list[Age] = []  # heap, by since when it waits

    def put(self, task: Task) -> None:
        """The task waits, or is another one from now on."""
        if len(self._young) + len(self._old) > 2 * len(self._members) + SPARE:
            self._young = [age for age in self._young if self._is(_grown_up, age)]
            self._old = [age for age in self._old if self._is(_since, age)]
            heapify(self._young)
            heapify(self._old)
        if task.due is None:
            heappush(self._old, _since(task))
        else:
            heappush(self._young, _grown_up(task))

    def take_oldest(self, now: Instant, before: Instant) -> Task | None:
        """Of the highest priority, the task that waits for the longest time, if it does since before then.

        One with a due date counts once `YOUNG` of its time is over. Each is returned once.
        """
        young, old = self._young, self._old
        while young and (young[0][1] <= now or not self._is(_grown_up, young[0])):
            age = heappop(young)
            if self._is(_grown_up, age):
                heappush(old, _since(self._members[age[2]]))
        while old and (old[0][1] < before or not self._is(_since, old[0])):
            age = heappop(old)
            if not self._is(_since, age):
                continue
            task = self._members[age[2]]
            if task.due is None or _grown_up(task)[1] <= now:
                return task
        return None

    def _is(self, what: Callable[[Task], Age], age: Age) -> bool:
        task = self._members.get(age[2])
        return task is not None and what(task) == age


def _since(task: Task) -> Age:
    return (-task.priority, task.ready_at or task.submitted_at, task.id)


def _grown_up(task: Task) -> Age:
    priority, since, task_id = _since(task)
    return (priority, Instant(since + round(YOUNG * ((task.due or since) - since))), task_id)


def early(task: Task) -> Rank:
    """Where a task goes that has waited for long: before every due date of its priority."""
    return (-task.priority, _since(task)[1] - NO_DUE_DATE, task.seq)
