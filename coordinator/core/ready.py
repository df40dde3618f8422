"""The ready tasks: what waits for a free slot, in order, as a window on what the database holds.

Tasks that the same LLMs may take share a lane. A lane keeps its best tasks in memory and knows down to which rank
it is complete; below that rank there may be more in the database, and the lane is refilled when it runs low.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from broker.messages import Status
from coordinator.core.pool import LLM
from coordinator.core.task import Rank, Task

LAST: Rank = (2**62, 2**62, 2**62)


@dataclass(slots=True, eq=False)
class Lane:
    """The ready tasks with one key (see Task.lane)."""

    key: str
    waiting: list[tuple[Rank, Task]] = field(default_factory=list)
    members: set[str] = field(default_factory=set)
    complete_to: Rank = LAST
    eligible: list[LLM] = field(default_factory=list)

    def admits(self, llm: LLM) -> bool:
        """Whether this LLM may take the tasks of the lane."""
        if self.key.startswith("@"):
            return llm.name == self.key[1:]
        return all(skill in llm.skills for skill in self.key.split())

    def head(self) -> tuple[Rank, Task] | None:
        """The first task, or None. Entries that are out of date are dropped on the way."""
        while self.waiting:
            rank, task = self.waiting[0]
            if task.id in self.members and task.status is Status.PENDING and task.rank == rank:
                return rank, task
            heappop(self.waiting)
        return None


class Ready:
    """All lanes. `window` bounds how many tasks of one lane are held in memory."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._lanes: dict[str, Lane] = {}

    def __contains__(self, task: Task) -> bool:
        lane = self._lanes.get(task.lane)
        return lane is not None and task.id in lane.members

    def __len__(self) -> int:
        return sum(len(lane.members) for lane in self._lanes.values())

    def lanes(self) -> list[Lane]:
        """Every lane that has, or may have, tasks."""
        return list(self._lanes.values())

    def add(self, task: Task, llms: dict[str, LLM]) -> None:
        """Take in a task that has become pending, unless it ranks where the lane is not complete."""
        lane = self._lane(task.lane, llms)
        rank = task.rank
        if rank > lane.complete_to or task.id in lane.members:
            return
        lane.members.add(task.id)
        heappush(lane.waiting, (rank, task))
        if len(lane.members) > 2 * self._window:
            self._shorten(lane)

    def discard(self, task: Task) -> None:
        """The task is no longer pending."""
        lane = self._lanes.get(task.lane)
        if lane is not None:
            lane.members.discard(task.id)

    def take(self, lane: Lane) -> None:
        """Take the head off its lane."""
        _, task = heappop(lane.waiting)
        lane.members.discard(task.id)

    def hungry(self) -> list[str]:
        """Keys of lanes that run low while the database may hold more."""
        return [
            key
            for key, lane in self._lanes.items()
            if lane.complete_to is not LAST and len(lane.members) <= self._window // 2
        ]

    def expect(self, key: str, llms: dict[str, LLM]) -> None:
        """The database holds tasks of this lane that memory does not: the lane is hungry until refilled."""
        self._lane(key, llms).complete_to = (-(2**62), 0, 0)

    def refill(self, key: str, tasks: list[Task], asked: int, llms: dict[str, LLM]) -> None:
        """Take in the lane's best pending tasks from the database, of which at most `asked` were asked for."""
        lane = self._lane(key, llms)
        lane.complete_to = LAST if len(tasks) < asked else tasks[-1].rank
        for task in tasks:
            if task.id not in lane.members:
                lane.members.add(task.id)
                heappush(lane.waiting, (task.rank, task))

    def llm_changed(self, llm: LLM) -> None:
        """The LLM is new, or its skills are."""
        for lane in self._lanes.values():
            if llm in lane.eligible:
                lane.eligible.remove(llm)
            if lane.admits(llm):
                lane.eligible.append(llm)

    def forget_empty(self) -> None:
        """Drop lanes that hold nothing."""
        for key in [k for k, lane in self._lanes.items() if not lane.members and lane.complete_to is LAST]:
            del self._lanes[key]

    def _lane(self, key: str, llms: dict[str, LLM]) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            lane.eligible = [llm for llm in llms.values() if lane.admits(llm)]
        return lane

    def _shorten(self, lane: Lane) -> None:
        best = sorted((entry for entry in lane.waiting if entry[1].id in lane.members), key=lambda entry: entry[0])
        lane.waiting = best[: self._window]
        heapify(lane.waiting)
        lane.members = {task.id for _, task in lane.waiting}
        lane.complete_to = lane.waiting[-1][0] if lane.waiting else lane.complete_to
