"""The ready tasks: what waits for a free slot, in order, as a window on what the database holds.

Tasks that the same LLMs may take share a lane. A lane keeps its best tasks in memory and knows down to which rank
it is complete; below that rank there may be more in the database, and the lane is given what follows there when it
runs low.

LLMs are indexed by what they offer, and lanes by LLM, so that neither a new lane nor a freed slot looks at all of
the others. Only lanes where something has changed are looked at when slots are filled.

Lanes for which no LLM is there sleep when there is much in them: of these only the key is in memory, and all of their
tasks are in the database alone, until an LLM comes that can serve them.
"""

from collections.abc import Iterable, Sequence

from broker.timestamps import Instant, Micros
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.lane import LAST, Lane
from coordinator.core.tasks.task import Rank, Task, meets

LANES_KEPT = 500  # beyond that, empty lanes are dropped and unserved ones sleep
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

    def __contains__(self, task: Task) -> bool:
        lane = self._lanes.get(task.lane)
        return lane is not None and task.id in lane.members

    def __len__(self) -> int:
        return sum(len(lane.members) for lane in self._lanes.values())

    # -- lanes -----------------------------------------------------------------------------------------------------

    def lanes(self) -> list[Lane]:
        """Every lane that has, or may have, tasks."""
        return list(self._lanes.values())

    def is_exhausted(self, key: str) -> bool:
        """Whether the tasks of this lane are in the database alone, as no LLM can do them."""
        return key in self._exhausted

    def lanes_of(self, llm: LLM) -> Iterable[Lane]:
        """The lanes whose tasks this LLM may take."""
        return self._lanes_of[llm.name].values()

    @property
    def changed_lanes(self) -> bool:
        """Whether a slot may be free where a task waits, as far as known."""
        return bool(self._changed_lanes)

    def take_touched(self) -> list[Lane]:
        """The lanes with tasks in which something has changed since the last call."""
        changed_lanes, self._changed_lanes = self._changed_lanes, {}
        return [lane for lane in changed_lanes.values() if lane.members]

    def hold(self, lane: Lane) -> None:
        """Tasks of this lane wait although a slot is free: it is looked at again when time has passed."""
        self._held[lane.key] = lane

    def is_held(self, lane: Lane) -> bool:
        """Whether the policy lets tasks of this lane wait beside a free slot."""
        return lane.key in self._held

    def time_passed(self) -> None:
        """Look at the held lanes again."""
        self._changed_lanes.update(self._held)
        self._held.clear()

    def clock_set(self, by: Micros) -> None:
        """Move what is measured along with a clock that was set."""
        for lane in self._lanes.values():
            lane.fed_at = Instant(lane.fed_at + by)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def add(self, task: Task, now: Instant) -> list[str]:
        """Take in a task that has become pending, unless it ranks where the lane is not complete.

        Returns the ids of tasks that had to make room.
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
        """Keys of lanes that run low while the database may hold more; below which rank, and for how many is room."""
        return [
            (key, lane.complete_to, self._window - len(lane.members))
            for key, lane in self._lanes.items()
            if not lane.is_complete and len(lane.members) <= self._window // 2
        ]

    def expect(self, key: str, now: Instant) -> None:
        """The database holds tasks of this lane that memory does not: to be refilled once an LLM can do them."""
        self._exhausted.add(key)
        if _is_anybody_there(self._offering_all(key.split())):
            self.lane(key, now)

    def refill(self, key: str, tasks: list[Task], asked: int) -> None:
        """Take in the first pending tasks that rank below what the lane knows, of which at most `asked` were asked for.

        The database must hold all that has happened: what it does not tell is taken for not there.
        """
        lane = self._lanes[key]
        lane.complete_to = LAST if len(tasks) < asked else tasks[-1].rank
        for task in tasks:
            lane.put(task)
        self._changed_lanes[key] = lane

    def forget(self) -> list[str]:
        """Drop lanes that hold nothing, when there are many, and let unserved ones sleep when there is much in them.

        Returns the ids of the tasks that are in the database alone from now on.
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
        """The LLM is new, or its skills or labels are, or its number of slots. See `freed_llms` for its free slots."""
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
        """There is no such LLM any more."""
        for lane in self._lanes_of.pop(llm.name, {}).values():
            lane.dismiss(llm)
        for offer in self._offers.pop(llm.name, frozenset()):
            del self._offering[offer][llm.name]

    def freed_llms(self, llm: LLM) -> None:
        """The LLM has a slot that it had not before."""
        for key, lane in self._lanes_of[llm.name].items():
            lane.offer(llm)
            if lane.members:
                self._changed_lanes[key] = lane

    def lane(self, key: str, now: Instant) -> Lane:
        """The lane with that key, new if need be. One that was asleep is hungry."""
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
        """The LLMs that meet all demands, looked for among those that meet the rarest."""
        plain = [demand for demand in demands if not demand.startswith("-") and "|" not in demand]
        fewest = min((self._offering.get(demand, {}) for demand in ("", *plain)), key=len)
        return [llm for name, llm in fewest.items() if meets(self._offers[name], demands)]


def _is_anybody_there(llms: Iterable[LLM]) -> bool:
    return any(llm.instances for llm in llms)
