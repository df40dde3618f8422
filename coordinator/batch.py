"""One batch: deliveries in, one transaction, messages out. Runs in its own thread; knows no event loop."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from broker.amqp.envelope import Delivery, Outgoing
from broker.best_effort import best_effort
from broker.errors import NotTheLeader, Problem, StoreUnavailable
from broker.fault_injection import crash_point
from broker.protocol.primitives import MAX_ANSWER_BYTES
from broker.protocol.topology import WORK
from broker.timestamps import EPOCH, Instant, Micros, seconds
from coordinator.assignments import UnsendableAssignments, returned_assignments, task_of
from coordinator.core.commands import Command, Refuse, SendAssignment, SendNotice
from coordinator.core.events import ClockSet, Event, Outage, Tick
from coordinator.core.health.breaker import BreakerState
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.machine import WINDOW, Machine, MachineOptions
from coordinator.core.scheduling.policies import DEFAULT
from coordinator.core.state import StateChanges
from coordinator.core.tasks.attempts import RETRY
from coordinator.core.tasks.task import Task
from coordinator.core.transaction import take_over, transaction
from coordinator.inbound.decoder import RejectedDelivery, read
from coordinator.inbound.liveness import LivenessProbe, is_echo
from coordinator.inbound.output_validation import OutputValidator, SetAside
from coordinator.inbound.refusals import refusal
from coordinator.outbound import outbox
from coordinator.outbound.encoder import messages
from coordinator.outbound.outbox import Item, RejectedMessage
from coordinator.outbound.refusal_log import log_refusals_and_losses
from coordinator.policy_loader import load_policy
from coordinator.queries.reports.closing import SIZE, close_period
from coordinator.storage.store import Store
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.rate_limited_log import RateLimitedLog
from coordinator.telemetry.snapshot import LLMs, LLMSnapshot
from coordinator.undelivered import advice_for
from coordinator.validation import shortened_problems

if TYPE_CHECKING:
    from coordinator.telemetry.tracing import CoordinatorTracing

FAR_BEHIND = 10 * SIZE  # attempts
CLOCK_ERROR = seconds(0.5)  # on a busy machine, reading two clocks may take that long

_log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class OutgoingBatch:
    """Messages to publish, and the outbox rows that can be deleted once all messages are confirmed.

    `aside` are deliveries of the batch that are not finished, because their answers must be checked first.
    """

    rows: tuple[int, ...]
    messages: list[Outgoing]
    aside: tuple[SetAside, ...] = ()


class BatchProcessor:
    """Processes batches with the core and the store. After an exception from `process`, call `rebuild` first."""

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
        """`clock` is the wall clock, `steady` a clock that nobody sets; None: the wall clock is not set either.

        Without `liveness`, the batch has every message that was published until now. Raises ConfigurationError when the
        policy does not exist.
        """
        self._answers = answers or OutputValidator()
        self._steady: Callable[[], int] = steady or clock
        self._liveness = liveness
        self._ahead = 0  # microseconds that the wall clock is ahead of the steady one
        self._counters = counters
        self._tracing = tracing
        self._options = MachineOptions(
            lease=lease,
            policy=partial(load_policy, policy),
            expertise=Expertise() if suggest_skills else None,
            require_identity=require_identity,
            learn_quality=learn_quality,
            trusts_labels=not require_identity,
            advice_for=advice_for,
            window=WINDOW,
        )
        self._store = store
        self._clock = clock
        self._lead = lead
        self._max_body = max_body
        self._require_identity = require_identity
        self._machine = Machine(self._options)
        self._lead_kept_at = EPOCH
        self._closed_until = EPOCH
        self._unclosed = SIZE  # attempts that may have ended since, or more
        self._sent: deque[int] = deque()  # filled by another thread
        self._unsendable = UnsendableAssignments()
        self._max_answer = max(MAX_ANSWER_BYTES, 2 * max_body)
        self._warnings = RateLimitedLog(_log)

    def rebuild(self) -> OutgoingBatch:
        """Load the state from the database; return what was committed and perhaps not published."""
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
        store.shorten_pauses(Instant(now + seconds(RETRY.maximum)), now, self._lead)
        self._machine = Machine(self._options, next_seq=store.last_seq() + 1)
        take_over(self._machine, store, now)
        self._closed_until, self._unclosed = store.closed_until(), SIZE

    @property
    def in_doubt(self) -> bool:
        """Whether a lease has expired, unless an unread message extends it."""
        return self._machine.in_doubt

    def confirmed(self, rows: Iterable[int]) -> None:
        """These outbox rows are published: the next transaction deletes them."""
        self._sent.extend(rows)

    def too_large(self, assignment: Outgoing) -> None:
        """RabbitMQ refused this assignment because of its size: its task fails."""
        self._unsendable.refused(assignment)

    def process(self, batch: Sequence[Delivery]) -> OutgoingBatch:
        """Handle a batch, and what time brings. Everything is committed when this returns.

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
        events, origins, items = self._read(batch, now)
        items += [item for it in refused for item in refusal(it, now)]
        aside: list[SetAside] = []

        def revise(events: list[Event], tasks: Mapping[str, Task]) -> list[Event]:
            """Check answers against their schemas, and add the events that came by no delivery."""
            checked, deliveries, set_aside = self._answers.in_batch(events, origins, tasks)
            aside.extend(set_aside)
            if self._tracing is not None:
                with best_effort("taking in traces"):
                    self._tracing.take_in(checked, deliveries, tasks)
            failures, being_checked = self._unsendable.take_failures(tasks), self._answers.being_checked(aside)
            return [*clock_set, *checked, *failures, *being_checked, *self._time_passed(now, at)]

        self._lead_kept_at = now
        with transaction(
            self._machine, self._store, events, now, revise=revise, between_rounds=self._keep_lead
        ) as effects:
            changes, requests = effects.changes, self._sort_out(effects.commands, batch, items, now)
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
            outgoing = OutgoingBatch(rows, self._render(items, self._machine.state.tasks), tuple(aside))
        with best_effort("adding up for reports"):
            self._close_period(changes, idle=not batch)
        return outgoing

    def _sort_out(
        self, commands: Iterable[Command], batch: Sequence[Delivery], items: list[Item], now: Instant
    ) -> list[Refuse]:
        """Add to `items` what the commands publish; return the refusals of which no delivery is kept."""
        requests: list[Refuse] = []
        for command in commands:
            match command:
                case Refuse(origin=int(origin)):
                    items += refusal(RejectedDelivery(batch[origin], command.problems), now, command.task_id)
                    continue
                case Refuse():
                    requests.append(command)
                case SendNotice():
                    _log.warning("workers of one name differ", llm=command.llm, reason=command.text)
            items.append(command)
        return requests

    def _keep_lead(self) -> None:
        """Extend the lease of the leader when a batch takes long: a long chain of tasks may end in one batch."""
        now = self._clock()
        if now - self._lead_kept_at > self._lead // 3:
            self._store.keep_lead(now, self._lead)
            self._lead_kept_at = now

    def _count(
        self, changes: StateChanges, batch: Sequence[Delivery], items: Sequence[Item], *, took: float, now: Instant
    ) -> None:
        if self._tracing is not None:
            self._tracing.committed()
        if self._counters is not None and (batch or items):
            kept_back = sum(isinstance(item, RejectedMessage) for item in items)
            self._counters.count(changes, messages=len(batch), refused=kept_back, took=took, now=now)

    def _follow_clock(self, now: Instant, at: int) -> list[Event]:
        """When the clock was set, move the pauses in the database; the core moves the rest."""
        by = Micros(now - at - self._ahead)
        if abs(by) <= CLOCK_ERROR:
            return []
        _log.warning("the clock was set", seconds=by / 1_000_000)
        self._store.move_pauses(by, now, self._lead)
        self._ahead += by
        return [ClockSet(by)]

    def _time_passed(self, now: Instant, at: int) -> list[Event]:
        """Return the events that time brings."""
        if self._liveness is None:
            return [Tick()]
        outage: list[Event] = [Outage()] if self._liveness.take_outage() else []
        until = self._liveness.until
        return [*outage, Tick(heard_until=EPOCH if until is None else Instant(now - (at - until)))]

    def _close_period(self, changes: StateChanges, *, idle: bool) -> None:
        """Add up ended attempts for reports: while nothing arrives, or when there are many."""
        self._unclosed += SIZE if changes.undone else len(changes.attempts)
        if self._unclosed < (SIZE if idle else FAR_BEHIND):
            return
        self._unclosed, unclosed = 0, self._unclosed  # if this fails, it is tried again after as many more
        until = close_period(self._store, self._clock(), self._lead)
        if until is not None:
            self._unclosed = unclosed
            self._closed_until = max(self._closed_until, until)

    def llms(self) -> LLMs:
        """Return the connected LLMs. The counters of all others are dropped."""
        there = {name: llm for name, llm in self._machine.state.llms.items() if llm.instances}
        snapshots = {
            name: LLMSnapshot(
                llm.slots,
                len(held := llm.tasks()),
                sum(held.values()),
                len(llm.instances),
                llm.available,
                sum(instance.breaker.state is not BreakerState.CLOSED for instance in llm.instances.values()),
            )
            for name, llm in there.items()
        }
        limits = {llm.rate_limit.name: llm.rate_limit.shuts for llm in there.values() if llm.rate_limit is not None}
        return LLMs(snapshots, {} if self._counters is None else self._counters.runs_of(there), limits)

    def quiet_since(self, task_id: str) -> Instant | None:
        """See Task.quiet_since. Any thread may call this; a coordinator that does not lead returns None."""
        task = self._machine.state.tasks.get(task_id)
        return None if task is None else task.quiet_since(self._clock())

    def settle(self) -> None:
        """At the end: delete published rows of the outbox. Raises StoreError."""
        self._commit(StateChanges(), None)

    def _commit(self, changes: StateChanges, text: str | None) -> int | None:
        sent = list(self._sent)
        crash_point("before-commit")
        row = self._store.commit(changes, outbox=text, sent=sent, now=self._clock(), lease=self._lead)
        for _ in sent:
            self._sent.popleft()
        return row

    def _read(self, batch: Sequence[Delivery], now: Instant) -> tuple[list[Event], list[Delivery], list[Item]]:
        """Return the events, the delivery of each, and the answers to deliveries that are no events."""
        events: list[Event] = []
        origins: list[Delivery] = []
        items: list[Item] = []
        returned = returned_assignments(batch, self._machine.state.tasks, self._store.load)
        for place, delivery in enumerate(batch):
            if is_echo(delivery):
                if self._liveness is not None:
                    self._liveness.handled(delivery.properties.correlation_id)
                continue
            if place in returned:
                self._warnings.warning(
                    "an assignment found no queue: its lease takes it back", routing_key=delivery.routing_key
                )
                continue
            match read(
                delivery,
                limit=self._max_body,
                require_identity=self._require_identity,
                on_ignored=partial(self._on_ignored, delivery),
                origin=place,
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
        """Count and log what was ignored of a worker's report."""
        if self._counters is not None:
            self._counters.ignored += len(problems)
        reason = "; ".join(map(str, shortened_problems(problems)))
        _log.debug("ignored a part of a report", routing_key=delivery.routing_key, parts=reason)

    def _render(self, items: list[Item], tasks: dict[str, Task]) -> list[Outgoing]:
        above = {
            id_ for item in items if isinstance(item, SendAssignment) for id_ in tasks[item.task_id].spec.depends_on
        }
        context = {task.id: task for task in self._store.load(above)} if above else {}
        rendered = []
        control_queue = self._machine.control_queue
        for message in messages(items, tasks, context, control_queue, most=self._max_answer):
            if self._unsendable.too_large(message):
                continue
            if self._tracing is not None and message.exchange == WORK:
                with best_effort("the span of an assignment"):
                    self._tracing.assigned(message, tasks[task_of(message)])
            rendered.append(message)
        return rendered
