"""The ready queue: tasks that wait for a free slot, in order, as a window on the database.

Tasks with the same demands share a lane. A lane keeps its first tasks in memory and knows down to which rank it is
complete. Below that rank the database may have more tasks, which refill the lane when it runs low.

LLMs are indexed by their offers, and lanes by LLM, so that neither a new lane nor a freed slot needs a search through
all others. Only lanes that changed are considered when slots are filled.

A full lane that no LLM can serve is exhausted: memory has only its key, and the database all its tasks, until an LLM
connects that can serve it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from broker.timestamps import Instant, Micros
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.lane import LAST, Lane
from coordinator.core.scheduling.suitability import unsuitable
from coordinator.core.tasks.task import Rank, Task, meets

LANES_KEPT = 500  # beyond that, empty lanes are dropped, and unserved ones become exhausted
Objection = Callable[[Task, LLM, Collection[LLM], Instant], str | None]
NOTHING: Rank = (-(2**14), 0, 0)  # a lane that is complete down to this knows none of its tasks


class ReadyQueue:
    """All lanes. `window` bounds how many tasks of one lane are held in memory."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._lanes: dict[str, Lane] = {}
        self._offering: dict[str, dict[str, LLM]] = {}  # the LLMs by what they offer, by name
        self._offers: dict[str, frozenset[str]] = {}
        self._lanes_of: dict[str, dict[str, Lane]] = {}  # by name of the LLM, by key
        self._changed_lanes: dict[str, Lane] = {}
        self._held: dict[str, Lane] = {}
        self._exhausted: set[str] = set()
        self._objection: Objection = lambda task, llm, eligible, now: None

    def heed(self, objection: Objection) -> None:
        """Ask this, too, before an LLM gets a task."""
        self._objection = objection

    def objection(self, task: Task, llm: LLM, lane: Lane, now: Instant) -> str | None:
        """Return why an LLM of the lane must not get a task now: it does not suit, or costs too much. None: it may."""
        return unsuitable(task, llm, lane.eligible) or self._objection(task, llm, lane.eligible.values(), now)

    def __contains__(self, task: Task) -> bool:
        lane = self._lanes.get(task.lane)
        return lane is not None and task.id in lane.members

    def __len__(self) -> int:
        return sum(len(lane.members) for lane in self._lanes.values())

    # -- lanes -----------------------------------------------------------------------------------------------------

    def lanes(self) -> list[Lane]:
        """Return every lane that has, or may have, tasks."""
        return list(self._lanes.values())

    def is_exhausted(self, key: str) -> bool:
        """Whether the tasks of this lane are only in the database, as no LLM can do them."""
        return key in self._exhausted

    def lanes_of(self, llm: LLM) -> Iterable[Lane]:
        """Return the lanes whose tasks this LLM may take."""
        return self._lanes_of[llm.name].values()

    @property
    def changed_lanes(self) -> bool:
        """Whether a slot may be free where a task waits, as far as known."""
        return bool(self._changed_lanes)

    def take_touched(self) -> list[Lane]:
        """Return the lanes with tasks that changed since the last call."""
        changed_lanes, self._changed_lanes = self._changed_lanes, {}
        return [lane for lane in changed_lanes.values() if lane.members]

    def hold(self, lane: Lane) -> None:
        """Tasks of this lane wait although a slot is free: consider the lane again when time has passed."""
        self._held[lane.key] = lane

    def is_held(self, lane: Lane) -> bool:
        """Whether the policy lets tasks of this lane wait beside a free slot."""
        return lane.key in self._held

    def time_passed(self) -> None:
        """Consider the held lanes again."""
        self._changed_lanes.update(self._held)
        self._held.clear()

    def clock_set(self, by: Micros) -> None:
        """Move every measured time along with the clock."""
        for lane in self._lanes.values():
            lane.fed_at = Instant(lane.fed_at + by)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def add(self, task: Task, now: Instant) -> list[str]:
        """Add a task that became pending, unless it ranks where the lane is not complete.

        Return the ids of tasks that had to make room.
        """
        if task.lane in self._exhausted:
            return []
        lane = self.lane(task.lane, now)
        if task.rank > lane.complete_to or task.id in lane.members:
            return []
        lane.put(task)
        lane.fed_at = now
        self._changed_lanes[lane.key] = lane
        return lane.shorten(self._window) if len(lane.members) > 2 * self._window else []

    def discard(self, task: Task) -> None:
        """The task is no longer pending."""
        lane = self._lanes.get(task.lane)
        if lane is not None:
            lane.remove(task.id)

    def needs_refill(self) -> list[tuple[str, Rank, int]]:
        """Return the lanes that run low while the database may have more: key, rank below which, number of tasks."""
        return [
            (key, lane.complete_to, self._window - len(lane.members))
            for key, lane in self._lanes.items()
            if not lane.is_complete and len(lane.members) <= self._window // 2
        ]

    def expect(self, key: str, now: Instant) -> None:
        """Mark a lane whose tasks are only in the database: it is refilled once an LLM can do them."""
        self._exhausted.add(key)
        if _is_anybody_there(self._offering_all(key.split())):
            self.lane(key, now)

    def refill(self, key: str, tasks: list[Task], asked: int) -> None:
        """Add the first pending tasks that rank below the known ones; at most `asked` were requested.

        The database must hold every change: a task that it does not return counts as not pending.
        """
        lane = self._lanes[key]
        lane.complete_to = LAST if len(tasks) < asked else tasks[-1].rank
        for task in tasks:
            lane.put(task)
        self._changed_lanes[key] = lane

    def forget(self) -> list[str]:
        """Drop empty lanes when there are many; mark unserved ones as exhausted when they hold many tasks.

        Return the ids of the tasks that are only in the database from now on.
        """
        many = len(self._lanes) > LANES_KEPT
        if not many and len(self) <= 2 * self._window:
            return []
        unserved = [
            lane for lane in self._lanes.values() if lane.members and not _is_anybody_there(lane.eligible.values())
        ]
        exhausted = unserved if many or sum(len(lane.members) for lane in unserved) > 2 * self._window else []
        empty = [lane for lane in self._lanes.values() if not lane.members and lane.is_complete] if many else []
        for lane in (*exhausted, *empty):
            del self._lanes[lane.key]
            self._changed_lanes.pop(lane.key, None)
            self._held.pop(lane.key, None)
            for name in lane.eligible:
                del self._lanes_of[name][lane.key]
        self._exhausted.update(lane.key for lane in exhausted)
        return [task_id for lane in exhausted for task_id in lane.members]

    # -- LLMs ------------------------------------------------------------------------------------------------------

    def llm_changed(self, llm: LLM) -> None:
        """Update the lanes of an LLM that is new, or whose skills, labels or number of slots changed."""
        name, offers = llm.name, llm.offers()
        lanes = self._lanes_of.setdefault(name, {})
        for gone in self._offers.get(name, frozenset()) - offers:
            del self._offering[gone][name]
        for offer in offers - self._offers.get(name, frozenset()):
            self._offering.setdefault(offer, {})[name] = llm
        self._offers[name] = offers
        for key, lane in self._lanes.items():
            if meets(offers, lane.demands):
                lane.admit(llm)
                lanes[key] = lane
                self._changed_lanes[key] = lane
            elif lanes.pop(key, None):
                lane.dismiss(llm)
        if llm.instances:
            for key in [key for key in self._exhausted if meets(offers, key.split())]:
                self.lane(key, llm.last_seen)

    def llm_gone(self, llm: LLM) -> None:
        """Remove an LLM."""
        for lane in self._lanes_of.pop(llm.name, {}).values():
            lane.dismiss(llm)
        for offer in self._offers.pop(llm.name, frozenset()):
            del self._offering[offer][llm.name]

    def freed_llms(self, llm: LLM) -> None:
        """Offer an LLM with a new free slot to its lanes."""
        for key, lane in self._lanes_of[llm.name].items():
            lane.offer(llm)
            if lane.members:
                self._changed_lanes[key] = lane

    def lane(self, key: str, now: Instant) -> Lane:
        """Return the lane with that key, a new one if need be. One that was exhausted needs a refill."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            if key in self._exhausted:
                self._exhausted.remove(key)
                lane.complete_to, lane.fed_at = NOTHING, now
            for llm in self._offering_all(lane.demands):
                lane.admit(llm)
                if llm.free:
                    lane.offer(llm)
                self._lanes_of[llm.name][key] = lane
        return lane

    def _offering_all(self, demands: Sequence[str]) -> list[LLM]:
        """Return the LLMs that meet all demands, searched among those that meet the rarest one."""
        plain = [demand for demand in demands if not demand.startswith("-") and "|" not in demand]
        fewest = min((self._offering.get(demand, {}) for demand in ("", *plain)), key=len)
        return [llm for name, llm in fewest.items() if meets(self._offers[name], demands)]


def _is_anybody_there(llms: Iterable[LLM]) -> bool:
    return any(llm.instances for llm in llms)
