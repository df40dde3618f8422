"""One batch: deliveries in, one transaction, messages out. Runs in its own thread; knows no event loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from broker.connection import Delivery, Outgoing
from broker.instants import Instant, Micros
from coordinator import outbox
from coordinator.core.commands import Assign, Refuse
from coordinator.core.events import DependencyEnded, Event, Submitted, Tick
from coordinator.core.machine import Machine
from coordinator.core.task import Task
from coordinator.intake import Refused, keep, read, refusal
from coordinator.outbox import Item
from coordinator.render import messages
from coordinator.store import Store

REFILL = 2000  # tasks asked for when a lane runs low
WOKEN_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Post:
    """Messages to publish, and the outbox rows that are done with once all of them are confirmed."""

    rows: tuple[int, ...]
    messages: list[Outgoing]


class Bookkeeper:
    """The machine and its store. After an exception from `process`, call `rebuild` before the next batch."""

    def __init__(
        self, store: Store, *, clock: Callable[[], Instant], lease: Micros, lead: Micros, max_body: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._lead = lead
        self._max_body = max_body
        self._machine = Machine(lease=lease)
        self._any_dependencies = False
        self._sent: list[int] = []

    def rebuild(self) -> Post:
        """Take everything from the database anew; returns what was committed and perhaps not published."""
        store, now = self._store, self._clock()
        self._machine = machine = Machine(lease=self._lease, window=REFILL, next_seq=store.last_seq() + 1)
        machine.restore(store.in_hand(), store.llms(), store.lanes(), now)
        machine.next_wake = store.next_wake()
        self._any_dependencies = store.any_dependencies()
        self._sent = []
        unsent = store.unsent()
        tasks = {task.id: task for task in store.load({id_ for _, text in unsent for id_ in outbox.task_ids(text)})}
        items = [item for _, text in unsent for item in outbox.unpack(text, tasks)]
        return Post(tuple(row for row, _ in unsent), self._render(items, tasks))

    def confirmed(self, rows: Iterable[int]) -> None:
        """These outbox rows are published: the next transaction takes them out."""
        self._sent.extend(rows)

    def process(self, batch: Sequence[Delivery]) -> Post:
        """Handle a batch, and whatever time has brought. Committed when it returns; raises StoreError otherwise."""
        now = self._clock()
        events, items, origins = self._read(batch, now)
        events.append(Tick(self._wake(now)))
        self._load(events)
        commands = self._machine.handle(*events, now=now)
        while ended := self._machine.take_ended():
            follow_ups = self._tell_dependents(ended)
            commands += self._machine.handle(*follow_ups, now=now)
        while hungry := self._machine.ready.hungry():
            for lane in hungry:
                self._machine.refill(lane, self._store.lane(lane, REFILL), REFILL)
            commands += self._machine.handle(now=now)
        for command in commands:
            items.append(command)
            if isinstance(command, Refuse) and command.task_id in origins:
                items.append(keep(origins[command.task_id], command.problems, now))
        changes = self._machine.take_changes()
        self._any_dependencies = self._any_dependencies or bool(changes.waits)
        text = outbox.pack(items) if items else None
        sent, self._sent = self._sent, []
        row = self._store.commit(changes, outbox=text, sent=sent, now=now, lease=self._lead)
        post = Post(() if row is None else (row,), self._render(items, self._machine.tasks))
        self._machine.forget()
        return post

    def _read(self, batch: Sequence[Delivery], now: Instant) -> tuple[list[Event], list[Item], dict[str, Delivery]]:
        events: list[Event] = []
        items: list[Item] = []
        origins: dict[str, Delivery] = {}
        for delivery in batch:
            match read(delivery, limit=self._max_body):
                case None:
                    pass
                case Refused() as refused:
                    items += refusal(refused, now)
                case event:
                    events.append(event)
                    if isinstance(event, Submitted):
                        origins[event.task_id] = delivery
        return events, items, origins

    def _wake(self, now: Instant) -> tuple[str, ...]:
        if self._machine.next_wake > now:
            return ()
        woken = self._store.waking(now, WOKEN_AT_ONCE)
        self._machine.load(woken)
        self._machine.next_wake = self._store.next_wake(after=now) if len(woken) < WOKEN_AT_ONCE else now
        return tuple(task.id for task in woken)

    def _load(self, events: list[Event]) -> None:
        known = self._machine.tasks
        ids = {id_ for event in events for id_ in Machine.needs(event) if id_ not in known}
        if ids:
            self._machine.load(self._store.load(ids))
        if self._any_dependencies or any(isinstance(e, Submitted) and e.spec.depends_on for e in events):
            self._give_ancestry(events)

    def _give_ancestry(self, events: list[Event]) -> None:
        """A new task can only close a circle if another one waits for it already."""
        submitted = {e.task_id: e for e in events if isinstance(e, Submitted) and e.spec.depends_on}
        awaited = {above for event in submitted.values() for above in event.spec.depends_on}
        awaited |= self._store.waiting_for(list(submitted)).keys()
        for place, event in enumerate(events):
            if isinstance(event, Submitted) and event.task_id in submitted and event.task_id in awaited:
                events[place] = Submitted(
                    event.task_id,
                    event.spec,
                    event.priority,
                    event.sender,
                    self._store.ancestry(event.spec.depends_on),
                )

    def _tell_dependents(self, ended: list[str]) -> list[DependencyEnded]:
        if not self._any_dependencies and not self._machine.new_dependencies:
            return []
        waiting = self._store.waiting_for(ended)
        follow_ups = [DependencyEnded(task_id, tuple(waiting.get(task_id, ()))) for task_id in ended]
        self._load([event for event in follow_ups if event.dependents])
        return follow_ups

    def _render(self, items: list[Item], tasks: dict[str, Task]) -> list[Outgoing]:
        above = {id_ for item in items if isinstance(item, Assign) for id_ in tasks[item.task_id].spec.depends_on}
        context = {task.id: task for task in self._store.load(above)} if above else {}
        return list(messages(items, tasks, context))
