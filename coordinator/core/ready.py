"""The ready tasks: what waits for a free slot, in order, as a window on what the database holds.

Tasks that the same LLMs may take share a lane. A lane keeps its best tasks in memory and knows down to which rank
it is complete; below that rank there may be more in the database, and the lane is refilled when it runs low.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, nsmallest

from coordinator.core.pool import LLM
from coordinator.core.task import Rank, Task

LAST: Rank = (2**62, 2**62, 2**62)
FEW = 100  # entries out of date that a lane does not mind


@dataclass(slots=True, eq=False)
class Lane:
    """The ready tasks with one key (see Task.lane): `members` by id, and `order` as a heap over them.

    The heap may hold entries that are out of date; each member has one that is not.
    """

    key: str
    members: dict[str, Task] = field(default_factory=dict)
    order: list[tuple[Rank, str]] = field(default_factory=list)
    complete_to: Rank = LAST
    eligible: list[LLM] = field(default_factory=list)

    def admits(self, llm: LLM) -> bool:
        """Whether this LLM may take the tasks of the lane."""
        if self.key.startswith("@"):
            return llm.name == self.key[1:]
        return all(skill in llm.skills for skill in self.key.split())

    def head(self) -> tuple[Rank, Task] | None:
        """The first task, or None. Entries that are out of date are dropped on the way."""
        while self.order:
            rank, task_id = self.order[0]
            task = self.members.get(task_id)
            if task is not None and task.rank == rank:
                return rank, task
            heappop(self.order)
        return None

    def put(self, task: Task) -> None:
        """Take in a task."""
        self.members[task.id] = task
        heappush(self.order, (task.rank, task.id))

    def remove(self, task_id: str) -> None:
        """Let a task go; its entry in the heap goes when it comes up, or when most entries are out of date."""
        self.members.pop(task_id, None)
        if len(self.order) > 2 * len(self.members) + FEW:
            self.order = [(task.rank, task.id) for task in self.members.values()]
            heapify(self.order)

    def shorten(self, length: int) -> list[str]:
        """Keep the best tasks only; returns the ids of the others, which are in the database alone from now on."""
        self.order = nsmallest(length, ((task.rank, task.id) for task in self.members.values()))
        self.complete_to = self.order[-1][0]
        kept = {task_id: self.members[task_id] for _, task_id in self.order}
        others = [task_id for task_id in self.members if task_id not in kept]
        self.members = kept
        return others


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

    def add(self, task: Task, llms: dict[str, LLM]) -> list[str]:
        """Take in a task that has become pending, unless it ranks where the lane is not complete.

        Returns the ids of tasks that had to make room.
        """
        lane = self._lane(task.lane, llms)
        if task.rank > lane.complete_to:
            return []
        lane.put(task)
        return lane.shorten(self._window) if len(lane.members) > 2 * self._window else []

    def discard(self, task: Task) -> None:
        """The task is no longer pending."""
        lane = self._lanes.get(task.lane)
        if lane is not None:
            lane.remove(task.id)

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
        """Take in the lane's best pending tasks from the database, of which at most `asked` were asked for.

        The database must hold all that has happened: what it does not tell is taken for not there.
        """
        lane = self._lane(key, llms)
        lane.complete_to = LAST if len(tasks) < asked else tasks[-1].rank
        for task in tasks:
            if task.id not in lane.members:
                lane.put(task)

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
