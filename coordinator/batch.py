"""One batch: deliveries in, one transaction, messages out. Runs in its own thread; knows no event loop."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from broker.amqp.pika_connection import Delivery, Outgoing
from broker.best_effort import best_effort
from broker.errors import NotTheLeader, Problem, StoreUnavailable
from broker.fault_injection import crash_point
from broker.protocol.primitives import MAX_ANSWER_BYTES, MAX_ASSIGNMENT_BYTES
from broker.protocol.topology import WORK, llm_address
from broker.protocol.worker_reports import Failure, Result
from broker.timestamps import EPOCH, Instant, Micros, seconds
from coordinator.core.commands import Refuse, SendAssignment, SendNotice
from coordinator.core.events import (
    ClockSet,
    Event,
    GroupChanged,
    MessageSent,
    MessageUndelivered,
    NotesRequested,
    Outage,
    Reported,
    Shared,
    Submitted,
    TaskEnded,
    Tick,
)
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.machine import Machine
from coordinator.core.scheduling.policies import DEFAULT, load_policy
from coordinator.core.state import StateChanges
from coordinator.core.tasks.attempts import LONGEST_PAUSE
from coordinator.core.tasks.task import COORDINATOR, Task
from coordinator.inbound.decoder import RejectedDelivery, in_short, read, refusal
from coordinator.inbound.liveness import LivenessProbe, is_echo
from coordinator.inbound.output_validation import OutputValidator, SetAside
from coordinator.outbound import outbox
from coordinator.outbound.encoder import messages
from coordinator.outbound.outbox import Item, RejectedMessage
from coordinator.queries.reports.closing import SIZE
from coordinator.storage.store import Store
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.rate_limited_log import RateLimitedLog, log_refusals_and_losses
from coordinator.telemetry.snapshot import LLMs, LLMSnapshot

if TYPE_CHECKING:
    from coordinator.telemetry.tracing import CoordinatorTracing

WINDOW = 5000  # ready tasks of a lane that are kept in memory
WOKEN_AT_ONCE = 1000
FAR_BEHIND = 10 * SIZE  # attempts
CLOCK_ERROR = seconds(0.5)  # less may be the time between two looks at two clocks, on a busy machine

_log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class OutgoingBatch:
    """Messages to publish, and the outbox rows that are done with once all of them are confirmed.

    `aside` are deliveries of the batch that are not done, because answers are to be checked first.
    """

    rows: tuple[int, ...]
    messages: list[Outgoing]
    aside: tuple[SetAside, ...] = ()


class BatchProcessor:
    """The machine and its store. After an exception from `process`, call `rebuild` before the next batch."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], Instant],
        lease: Micros,
        lead: Micros,
        max_body: int,
        policy: str = DEFAULT,
        suggest_skills: bool = False,
        require_identity: bool = False,
        learn_quality: bool = True,
        answers: OutputValidator | None = None,
        counters: Counters | None = None,
        tracing: "CoordinatorTracing | None" = None,
        steady: Callable[[], Micros] | None = None,
        liveness: LivenessProbe | None = None,
    ) -> None:
        """`clock` is the wall clock; `steady` is one that nobody sets. None: the former is not set either.

        Without `liveness`, what was said until now is in the batch. Raises ConfigurationError when there is no such
        policy.
        """
        self._answers = answers or OutputValidator()
        self._steady: Callable[[], int] = steady or clock
        self._liveness = liveness
        self._ahead = 0  # microseconds that the wall clock is ahead of the steady one
        self._counters = counters
        self._tracing = tracing
        self._policy = policy
        self._expertise = Expertise() if suggest_skills else None
        self._learn_quality = learn_quality
        self._store = store
        self._clock = clock
        self._lease = lease
        self._lead = lead
        self._max_body = max_body
        self._require_identity = require_identity
        self._machine = Machine(lease=lease, policy=load_policy(policy))
        self._any_dependencies = False
        self._any_children = False
        self._closed_until = EPOCH
        self._unclosed = SIZE  # attempts that may have ended since, or more
        self._sent: deque[int] = deque()  # filled by another thread
        self._too_large: dict[str, int] = {}  # assigned tasks that cannot be sent, and their size in bytes
        self._not_taken: deque[tuple[str, int]] = deque()  # the same, by RabbitMQ's word; filled by another thread
        self._max_answer = max(MAX_ANSWER_BYTES, 2 * max_body)
        self._warnings = RateLimitedLog(_log)

    def rebuild(self) -> OutgoingBatch:
        """Take everything from the database anew; returns what was committed and perhaps not published."""
        self._reload()
        self._sent.clear()
        unsent = self._store.unsent()
        ids = {id_ for _, text in unsent for id_ in outbox.task_ids(text)}
        tasks = {task.id: task for task in self._store.load(ids)}
        items = [item for _, text in unsent for item in outbox.unpack(text, tasks)]
        return OutgoingBatch(tuple(row for row, _ in unsent), self._render(items, tasks))

    def _reload(self) -> None:
        store, now = self._store, self._clock()
        self._ahead = now - self._steady()
        store.shorten_pauses(Instant(now + LONGEST_PAUSE), now, self._lead)
        self._machine = machine = Machine(
            lease=self._lease,
            window=WINDOW,
            next_seq=store.last_seq() + 1,
            policy=load_policy(self._policy),
            expertise=self._expertise,
            require_identity=self._require_identity,
            learn_quality=self._learn_quality,
        )
        machine.restore(store.in_hand(), store.llms(), store.lanes(), now)
        machine.board.next_wake = store.next_wake()
        machine.board.next_due = store.next_due()
        self._any_dependencies = store.any_dependencies()
        self._any_children = store.any_children()
        self._closed_until, self._unclosed = store.closed_until(), SIZE

    @property
    def in_doubt(self) -> bool:
        """Whether the last batch left a lease open that has run out, unless there is something to be heard yet."""
        return self._machine.in_doubt

    def confirmed(self, rows: Iterable[int]) -> None:
        """These outbox rows are published: the next transaction takes them out."""
        self._sent.extend(rows)

    def too_large(self, assignment: Outgoing) -> None:
        """RabbitMQ does not take this assignment because of its size: its task fails."""
        self._not_taken.append((_task_of(assignment), len(assignment.body)))

    def process(self, batch: Sequence[Delivery]) -> OutgoingBatch:
        """Handle a batch, and whatever time has brought. It is committed when this returns.

        Raises StoreUnavailable and NotTheLeader. A delivery that cannot be processed, for whatever reason, is refused.
        """
        try:
            return self._process(batch)
        except (StoreUnavailable, NotTheLeader):
            raise
        except Exception:
            if not batch:
                raise
            _log.exception("a batch cannot be processed: trying its messages one by one")
            return self._process_each(batch)

    def _process_each(self, batch: Sequence[Delivery]) -> OutgoingBatch:
        posts = []
        self._reload()
        for delivery in batch:
            try:
                posts.append(self._process([delivery]))
            except (StoreUnavailable, NotTheLeader):
                raise
            except Exception as error:
                self._reload()
                problem = Problem("", f"the coordinator cannot process this message: {type(error).__name__}")
                posts.append(self._process([], [RejectedDelivery(delivery, (problem,))]))
        return OutgoingBatch(
            tuple(chain(*(post.rows for post in posts))),
            list(chain(*(post.messages for post in posts))),
            tuple(chain(*(post.aside for post in posts))),
        )

    def _process(self, batch: Sequence[Delivery], refused: Sequence[RejectedDelivery] = ()) -> OutgoingBatch:
        now, at = self._clock(), self._steady()
        self._warnings.flush()
        clock_set = self._follow_clock(now, at)
        self._refill()
        events, origins, items = self._read(batch, now)
        items += [item for it in refused for item in refusal(it, now)]
        self._load(events)
        events, origins, aside = self._answers.in_batch(events, origins, self._machine.board.tasks)
        if self._tracing is not None:
            with best_effort("taking in traces"):
                self._tracing.take_in(events, origins, self._machine.board.tasks)
        origin = {id(event): delivery for event, delivery in zip(events, origins, strict=True)}
        events += [*self._failures(), *self._answers.being_checked(aside)]
        events = [*clock_set, *events, *self._passed(now, at)]
        commands = self._machine.handle(*events, now=now)
        kept = now
        while self._machine.unfinished:
            if (late := self._clock()) - kept > self._lead // 3:  # a long row of tasks ends one after the other
                self._store.keep_lead(late, self._lead)
                kept = late
            follow_ups = [
                *self._tell_others(self._machine.take_ended()),
                *self._stir(self._machine.take_dirty_groups()),
            ]
            commands += self._machine.handle(*follow_ups, now=now)
        requests: list[Refuse] = []
        for command in commands:
            if isinstance(command, SendNotice):
                _log.warning("workers of one name differ", llm=command.llm, told=command.text)
            if isinstance(command, Refuse) and command.event is not None:
                items += refusal(RejectedDelivery(origin[id(command.event)], command.problems), now, command.task_id)
            else:
                items.append(command)
                if isinstance(command, Refuse):
                    requests.append(command)
        self._any_dependencies = self._any_dependencies or self._machine.new_dependencies
        self._any_children = self._any_children or self._machine.new_children
        changes = self._machine.take_changes()
        if now < self._closed_until:  # the clock was set back
            changes.undone.append(now)
        text = outbox.pack(items) if items else None
        began = time.perf_counter()
        row = self._commit(changes, text)
        with best_effort("logging refusals and losses"):
            log_refusals_and_losses(self._warnings, items, requests, changes)
        with best_effort("counting a batch"):
            self._count(changes, batch, items, took=time.perf_counter() - began, now=now)
        rows = () if row is None else (row,)
        post = OutgoingBatch(rows, self._render(items, self._machine.board.tasks), tuple(aside))
        self._machine.forget()
        with best_effort("adding up for reports"):
            self._close_period(changes, idle=not batch)
        return post

    def _count(
        self, changes: StateChanges, batch: Sequence[Delivery], items: Sequence[Item], *, took: float, now: Instant
    ) -> None:
        if self._tracing is not None:
            self._tracing.committed()
        if self._counters is not None and (batch or items):
            kept_back = sum(isinstance(item, RejectedMessage) for item in items)
            self._counters.count(changes, messages=len(batch), refused=kept_back, took=took, now=now)

    def _follow_clock(self, now: Instant, at: int) -> list[Event]:
        """When somebody has set the clock, move the pauses that the database holds; the machine does the rest."""
        by = Micros(now - at - self._ahead)
        if abs(by) <= CLOCK_ERROR:
            return []
        _log.warning("the clock was set", seconds=by / 1_000_000)
        self._store.move_pauses(by, now, self._lead)
        self._ahead += by
        self._machine.board.next_wake = self._store.next_wake()
        return [ClockSet(by)]

    def _passed(self, now: Instant, at: int) -> list[Event]:
        """What time has brought."""
        woken, overdue = self._wake(now), self._overdue(now)
        if self._liveness is None:
            return [Tick(woken, overdue)]
        outage: list[Event] = [Outage()] if self._liveness.take_outage() else []
        until = self._liveness.until
        return [*outage, Tick(woken, overdue, EPOCH if until is None else Instant(now - (at - until)))]

    def _close_period(self, changes: StateChanges, *, idle: bool) -> None:
        """Add up for reports what has ended: as long as nothing arrives, or when it has become much."""
        self._unclosed += SIZE if changes.undone else len(changes.attempts)
        if self._unclosed < (SIZE if idle else FAR_BEHIND):
            return
        self._unclosed, unclosed = 0, self._unclosed  # if this fails, it is tried again after as many more
        until = self._store.close_period(self._clock(), self._lead)
        if until is not None:
            self._unclosed = unclosed
            self._closed_until = max(self._closed_until, until)

    def llms(self) -> LLMs:
        """The LLMs that are there. What was counted of others is forgotten."""
        there = {name: llm for name, llm in self._machine.board.llms.items() if llm.instances}
        standing = {
            name: LLMSnapshot(llm.slots, len(held := llm.tasks()), sum(held.values()), len(llm.instances))
            for name, llm in there.items()
        }
        return LLMs(standing, {} if self._counters is None else self._counters.runs_of(there))

    def quiet_since(self, task_id: str) -> Instant | None:
        """See Task.quiet_since. Any thread may ask; a coordinator that does not lead knows nothing of it."""
        task = self._machine.board.tasks.get(task_id)
        return None if task is None else task.quiet_since(self._clock())

    def settle(self) -> None:
        """At the end: take out of the outbox what is published. Raises StoreError."""
        self._commit(StateChanges(), None)

    def _commit(self, changes: StateChanges, text: str | None) -> int | None:
        sent = list(self._sent)
        crash_point("before-commit")
        row = self._store.commit(changes, outbox=text, sent=sent, now=self._clock(), lease=self._lead)
        for _ in sent:
            self._sent.popleft()
        return row

    def _refill(self) -> None:
        """Feed lanes that run low. Before the batch: the database and the machine tell the same only between two."""
        for lane, known_to, room in self._machine.board.ready.needs_refill():
            self._machine.refill(lane, self._store.lane(lane, known_to, room), room)

    def _read(self, batch: Sequence[Delivery], now: Instant) -> tuple[list[Event], list[Delivery], list[Item]]:
        """The events, the delivery of each, and what to say about deliveries that are none."""
        events: list[Event] = []
        origins: list[Delivery] = []
        items: list[Item] = []
        returned = self._returned(batch)
        for delivery in batch:
            if is_echo(delivery):
                if self._liveness is not None:
                    self._liveness.handled(delivery.properties.correlation_id)
                continue
            if id(delivery) in returned:
                self._warnings.warning(
                    "an assignment found no queue: its lease takes it back", routing_key=delivery.routing_key
                )
                continue
            match read(
                delivery,
                limit=self._max_body,
                require_identity=self._require_identity,
                on_ignored=partial(self._on_ignored, delivery),
            ):
                case None:
                    pass
                case RejectedDelivery() as refused:
                    items += refusal(refused, now)
                case event:
                    events.append(event)
                    origins.append(delivery)
        return events, origins, items

    def _on_ignored(self, delivery: Delivery, problems: Sequence[Problem]) -> None:
        """Something was left out of a worker's report, which counts all the same."""
        if self._counters is not None:
            self._counters.ignored += len(problems)
        told = "; ".join(map(str, in_short(problems)))
        _log.debug("ignored a part of a report", routing_key=delivery.routing_key, parts=told)

    def _returned(self, batch: Sequence[Delivery]) -> set[int]:
        """Which deliveries, by their ids, were published here for a task and are back because the LLM's queue has gone.

        By now the task may be somewhere else, or over.
        """
        named: dict[int, tuple[str, str]] = {}
        for delivery in batch:
            if delivery.exchange == WORK:
                task_id, _, attempt = (delivery.properties.message_id or "").rpartition("/")
                named[id(delivery)] = task_id, attempt
        if not named:
            return set()
        tasks = self._machine.board.tasks
        tasks = tasks | {
            task.id: task for task in self._store.load({task_id for task_id, _ in named.values()} - tasks.keys())
        }
        returned = set()
        for delivery in batch:
            task_id, attempt = named.get(id(delivery), ("", ""))
            if (task := tasks.get(task_id)) and (attempt, delivery.routing_key) in _assignments(task):
                returned.add(id(delivery))
        return returned

    def _failures(self) -> list[Event]:
        """Assignments that are too large to be sent, as failed attempts."""
        too_large, self._too_large = self._too_large, {}
        while self._not_taken:
            task_id, size = self._not_taken.popleft()
            too_large[task_id] = size
        found: list[Event] = []
        for task_id, size in too_large.items():
            task = self._machine.board.tasks.get(task_id)
            if task and task.llm and task.in_hand:
                limit = (
                    f"the limit is {MAX_ASSIGNMENT_BYTES:,}" if size > MAX_ASSIGNMENT_BYTES else "RabbitMQ takes less"
                )
                told = f"the task and the results it builds on have {size:,} bytes; {limit}"
                error = Failure(type="assignment_too_large", message=told, retryable=False)
                result = Result(
                    task_id=task_id, attempt=task.attempt, instance=COORDINATOR, outcome="failed", error=error
                )
                found.append(Reported(task.llm, result))
        return found

    def _wake(self, now: Instant) -> tuple[str, ...]:
        if self._machine.board.next_wake > now:
            return ()
        woken = self._store.waking(now, WOKEN_AT_ONCE)
        self._machine.load(woken)
        self._machine.board.next_wake = self._store.next_wake(after=now) if len(woken) < WOKEN_AT_ONCE else now
        return tuple(task.id for task in woken)

    def _overdue(self, now: Instant) -> tuple[str, ...]:
        if self._machine.board.next_due > now:
            return ()
        late = self._store.overdue(now, WOKEN_AT_ONCE)
        self._machine.load(late)
        self._machine.board.next_due = self._store.next_due(after=now) if len(late) < WOKEN_AT_ONCE else now
        return tuple(task.id for task in late)

    def _load(self, events: list[Event]) -> None:
        known = self._machine.board.tasks
        ids = {id_ for event in events for id_ in Machine.needs(event) if id_ not in known}
        if below := {id_ for event in events for id_ in Machine.needs_lineage_of(event)}:
            ids.update(self._store.lineage(below) - known.keys())
        if ids:
            self._machine.load(self._store.load(ids))
        self._load_tasks(id_ for event in events for id_ in self._machine.needs_besides(event))
        self._give_ancestry(events)
        self._give_known(events)

    def _give_known(self, events: list[Event]) -> None:
        """Tell what is on the boards that are written or read. The text is needed only of a note that is read.

        Of a message without an id, tell how many there are that say the same.
        """
        for place, event in enumerate(events):
            match event:
                case Shared(note):
                    events[place] = replace(event, known=tuple(self._store.notes(note.board)))
                case NotesRequested(board, name):
                    events[place] = replace(event, known=tuple(self._store.notes(board, name)))
                case MessageSent() | MessageUndelivered() if event.unnamed:
                    events[place] = replace(event, known=self._store.repeats(event.message.id))

    def _give_ancestry(self, events: list[Event]) -> None:
        """Tell new tasks for which another one waits already what they build on: only they can close a circle."""
        new = {place: e for place, e in enumerate(events) if isinstance(e, Submitted) and e.spec.depends_on}
        if not new:
            return
        awaited = set(self._store.waiting_for([event.task_id for event in new.values()]))
        closing = []
        for place, event in new.items():
            if event.task_id in awaited:
                closing.append(place)
            awaited.update(event.spec.depends_on)
        if closing:
            ancestry = self._store.ancestry({above for event in new.values() for above in event.spec.depends_on})
            for place in closing:
                events[place] = replace(new[place], ancestry=ancestry)

    def _tell_others(self, ended: list[str]) -> list[Event]:
        """What the end of these tasks means to others; nothing where no task has to do with another."""
        any_dependencies = self._any_dependencies or self._machine.new_dependencies
        any_children = self._any_children or self._machine.new_children
        if not ended or (not any_dependencies and not any_children):
            return []
        waiting = self._store.waiting_for(ended) if any_dependencies else {}
        children = self._store.children(ended, live=True) if any_children else {}
        follow_ups: list[Event] = [
            TaskEnded(task_id, tuple(waiting.get(task_id, ())), tuple(children.get(task_id, ())))
            for task_id in ended
            if task_id in waiting or task_id in children or self._machine.concerns_others(task_id)
        ]
        self._load(follow_ups)
        return follow_ups

    def _stir(self, dirty_groups: list[str]) -> list[Event]:
        """What follows for those of these tasks that are for several LLMs."""
        self._load_tasks(dirty_groups)
        tasks = self._machine.board.tasks
        groups = [id_ for id_ in dirty_groups if id_ in tasks and tasks[id_].spec.is_group]
        parts = self._store.children(groups) if groups else {}
        follow_ups: list[Event] = [GroupChanged(id_, tuple(parts.get(id_, ()))) for id_ in groups]
        self._load_tasks(above for id_ in groups for above in tasks[id_].spec.depends_on)
        self._load(follow_ups)
        return follow_ups

    def _load_tasks(self, ids: Iterable[str]) -> None:
        if missing := {id_ for id_ in ids if id_ not in self._machine.board.tasks}:
            self._machine.load(self._store.load(missing))

    def _render(self, items: list[Item], tasks: dict[str, Task]) -> list[Outgoing]:
        above = {
            id_ for item in items if isinstance(item, SendAssignment) for id_ in tasks[item.task_id].spec.depends_on
        }
        context = {task.id: task for task in self._store.load(above)} if above else {}
        rendered = []
        control_queue = self._machine.control_queue
        for message in messages(items, tasks, context, control_queue, most=self._max_answer):
            if message.exchange == WORK and message.message_id and len(message.body) > MAX_ASSIGNMENT_BYTES:
                self._too_large[_task_of(message)] = len(message.body)
            else:
                if self._tracing is not None and message.exchange == WORK:
                    with best_effort("the span of an assignment"):
                        self._tracing.assigned(message, tasks[_task_of(message)])
                rendered.append(message)
        return rendered


def _task_of(assignment: Outgoing) -> str:
    return (assignment.message_id or "").rpartition("/")[0]


def _assignments(task: Task) -> set[tuple[str, str]]:
    """Every assignment that a task has had: the attempt, and the routing key."""
    given = {(str(ended.attempt), llm_address(ended.llm)) for ended in task.attempts}
    return given | {(str(task.attempt), llm_address(task.llm or ""))}
