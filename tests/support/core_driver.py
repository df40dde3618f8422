"""The machine of the coordinator under test: with a dictionary for a database, and short names for what happens.

`Core.handle` runs one transaction of the core, as coordinator/batch.py does, and checks the machine's invariants. So
every task that is not in hand or in its lane is forgotten after each call and comes back as another object.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from broker.protocol.status import Status
from broker.timestamps import EPOCH, Instant, seconds
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.budgets.budget import Budget
from coordinator.core.budgets.control import SPENDING
from coordinator.core.budgets.ledger import FEW, Wake
from coordinator.core.commands import (
    Command,
    SendAssignment,
)
from coordinator.core.events import (
    NEVER,
    Event,
    SubmitterNote,
    Tick,
)
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.machine import Machine, MachineOptions
from coordinator.core.scheduling.decision import Policy
from coordinator.core.scheduling.earliest_finish import EarliestFinish
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Rank, Task
from coordinator.core.transaction import take_over, transaction
from coordinator.undelivered import advice_for
from tests.support.invariants import check_forgotten, check_invariants

T0 = Instant(1_800_000_000_000_000)
LEASE = 10.0  # seconds


def moment(at: float) -> Instant:
    """The moment `at` seconds after the start."""
    return Instant(T0 + seconds(at))


class FakeDatabase:
    """What coordinator/storage/store.py keeps, in dictionaries; `committed` counts how often a task was completed."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self._llms: dict[str, LLM] = {}
        self._limits: dict[str, dict[str, Any]] = {}
        self.edges: dict[tuple[str, str], bool] = {}  # (task, the task that it depends on) -> met
        self.ledger: dict[AccountKey, Account] = {}
        self._budgets: dict[str, Budget] = {}
        self._settings: dict[str, Any] = {}

    def commit(self, changes: StateChanges) -> None:
        for task in changes.new:
            assert task.id not in self.tasks
            assert all(task.seq != other.seq for other in self.tasks.values())
        for task in [*changes.new, *changes.changed.values()]:
            self.tasks[task.id] = _copy(task)
        for task, unmet in changes.waits:
            self.edges |= {(task.id, above): above not in unmet for above in task.spec.depends_on}
        for edge in self.edges:
            if edge[1] in changes.met:
                self.edges[edge] = True
        for name in changes.forgotten:
            del self._llms[name]
        for name in changes.forgotten_limits:
            self._limits.pop(name, None)
        for limit in changes.limits.values():
            self._limits[limit.name] = limit.plain()
        for llm in changes.llms.values():
            self._llms[llm.name] = _without_work(llm)
        self._budgets |= {name: budget for name, budget in changes.budgets.items() if budget is not None}
        for name in [name for name, budget in changes.budgets.items() if budget is None]:
            del self._budgets[name]
        self.ledger |= {key: _without_holds(account) for key, account in changes.accounts.items()}
        self._settings |= changes.settings
        for label, which in changes.wakes.items():
            self._wake(label, which)

    def _wake(self, label: str, which: Wake) -> None:
        waiting = [task for task in self.tasks.values() if task.waits_for == label]
        if which is not Wake.ALL:
            waiting = [task for task in waiting if task.status is Status.BLOCKED]
        if which is Wake.FEW:
            waiting = sorted(waiting, key=lambda task: task.rank)[:FEW]
        for task in waiting:
            task.wake_at = Instant(1)

    def budgets(self) -> list[Budget]:
        return list(self._budgets.values())

    def accounts(self, keys: Iterable[AccountKey]) -> list[Account]:
        return [_without_holds(self.ledger[key]) for key in keys if key in self.ledger]

    def accounts_since(self, starts: Mapping[str, Instant]) -> list[Account]:
        found = [account for account in self.ledger.values() if account.key.name in starts]
        return [_without_holds(a) for a in found if a.is_open or a.key.since >= starts[a.key.name]]

    def spending_stopped(self) -> str | None:
        stopped: str | None = self._settings.get(SPENDING, {}).get("stopped")
        return stopped

    def load(self, ids: Iterable[str]) -> list[Task]:
        return [_copy(self.tasks[task_id]) for task_id in ids if task_id in self.tasks]

    def lane(self, key: str, after: Rank, limit: int) -> list[Task]:
        lane = [t for t in self.tasks.values() if t.status is Status.PENDING and t.lane == key]
        pending = [task for task in lane if task.rank > after]
        return [_copy(task) for task in sorted(pending, key=lambda task: task.rank)[:limit]]

    def lanes(self) -> list[str]:
        return sorted({task.lane for task in self.tasks.values() if task.status is Status.PENDING})

    def in_hand(self) -> list[Task]:
        return [_copy(task) for task in self.tasks.values() if task.in_hand]

    def waking(self, now: Instant, limit: int) -> list[Task]:
        due = [t for t in self.tasks.values() if t.wake_at is not None and t.wake_at <= now and not t.waiting_on]
        return [_copy(task) for task in sorted(due, key=lambda task: task.wake_at or 0)[:limit]]

    def next_wake(self, after: Instant = EPOCH) -> Instant:
        wakes = [t.wake_at for t in self.tasks.values() if t.wake_at is not None and not t.waiting_on]
        return min((wake for wake in wakes if wake > after), default=NEVER)

    def overdue(self, now: Instant, limit: int) -> list[Task]:
        late = [task for task in self._with_due_date() if (task.due or now) <= now]
        return [_copy(task) for task in sorted(late, key=lambda task: task.due or 0)[:limit]]

    def next_due(self, after: Instant = EPOCH) -> Instant:
        return min((task.due for task in self._with_due_date() if task.due and task.due > after), default=NEVER)

    def _with_due_date(self) -> list[Task]:
        return [t for t in self.tasks.values() if t.due is not None and not t.overdue and not t.status.is_final]

    def llms(self) -> list[LLM]:
        return [_without_work(llm) for llm in self._llms.values()]

    def limits(self) -> list[RateLimit]:
        return [RateLimit.from_plain(name, plain) for name, plain in self._limits.items()]

    def notes(self, board: str, content_of: str | None = None) -> list[SubmitterNote]:
        return []

    def repeats(self, message_id: str) -> int:
        return 0

    def any_dependencies(self) -> bool:
        return bool(self.edges)

    def any_children(self) -> bool:
        return any(task.spec.parent_id for task in self.tasks.values())

    def waiting_for(self, ids: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        wanted = set(ids)
        for (task_id, above), met in self.edges.items():
            if above in wanted and not met:
                found.setdefault(above, []).append(task_id)
        return found

    def children(self, ids: Iterable[str], *, live: bool = False) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        wanted = set(ids)
        for task in self.tasks.values():
            if task.spec.parent_id in wanted and not (live and task.status.is_final):
                found.setdefault(task.spec.parent_id, []).append(task.id)
        return found

    def lineage(self, ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        to_ask = list(ids)
        while to_ask:
            task = self.tasks.get(to_ask.pop())
            if task and task.id not in found:
                found.add(task.id)
                to_ask += [task.spec.parent_id] if task.spec.parent_id else []
        return found

    def ancestry(self, ids: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        to_ask = list(ids)
        while to_ask:
            task_id = to_ask.pop()
            if task_id not in found and (above := [a for t, a in self.edges if t == task_id]):
                found[task_id] = above
                to_ask += above
        return found


def _copy(task: Task) -> Task:
    other = copy.copy(task)
    other.attempts, other.history, other.questions = list(task.attempts), list(task.history), list(task.questions)
    return other


def _without_work(llm: LLM) -> LLM:
    limit, llm.rate_limit = llm.rate_limit, None
    other = copy.deepcopy(llm)
    llm.rate_limit = limit
    other.unclaimed.clear()
    other.runs.clear()
    for instance in other.instances.values():
        instance.held.clear()
        instance.parked.clear()
        instance.lease_until = EPOCH
    return other


def _without_holds(account: Account) -> Account:
    other = copy.copy(account)
    other.holds = {}
    other.active = other.taken_nanos = other.taken_tokens = other.used_nanos = other.used_tokens = 0
    return other


class Core:
    """A machine and its database. `at` is in seconds after the start and stays where it was when it is not given."""

    def __init__(
        self,
        *,
        window: int = 2000,
        woken_at_once: int = 1000,
        policy: Policy | None = None,
        expertise: Expertise | None = None,
        learn_quality: bool = True,
        trusts_labels: bool = True,
    ) -> None:
        self._woken_at_once = woken_at_once
        self._options = MachineOptions(
            lease=seconds(LEASE),
            policy=EarliestFinish if policy is None else lambda: policy,
            expertise=expertise,
            trusts_labels=trusts_labels,
            learn_quality=learn_quality,
            advice_for=advice_for,
            window=window,
        )
        self.at = 0.0
        self.database = FakeDatabase()
        self.machine = Machine(self._options)

    def handle(self, *events: Event, at: float | None = None, heard: float | None = None) -> list[Command]:
        """One batch: what these events lead to, once it is stored.

        All that was said before `heard`, in seconds after the start, has been handled; without it, all until now.
        """
        self.at = self.at if at is None else at
        machine, tick = self.machine, Tick(heard_until=None if heard is None else moment(heard))
        with transaction(
            machine, self.database, [*events, tick], moment(self.at), woken_at_once=self._woken_at_once
        ) as effects:
            check_invariants(machine)
            self._check_slots(effects.commands)
            self.database.commit(effects.changes)
        check_invariants(machine)
        check_forgotten(machine)
        return effects.commands

    def tick(self, *, at: float, heard: float | None = None) -> list[Command]:
        """Nothing happens but time."""
        return self.handle(at=at, heard=heard)

    def restart(self, *, at: float | None = None) -> None:
        """Another coordinator takes over, with nothing but the database."""
        self.at = self.at if at is None else at
        newest = max((task.seq for task in self.database.tasks.values()), default=0)
        self.machine = Machine(self._options, next_seq=newest + 1)
        take_over(self.machine, self.database, moment(self.at))

    def task(self, task_id: str) -> Task:
        """The task as it is stored."""
        return self.database.tasks[task_id]

    def status(self, task_id: str) -> str:
        """The status of the task as it is stored."""
        return self.database.tasks[task_id].status.value

    def _check_slots(self, commands: list[Command]) -> None:
        """Late binding: an LLM that was just given work has no more of it than slots, all its instances together."""
        for name in {command.llm for command in commands if isinstance(command, SendAssignment)}:
            llm = self.machine.state.llms[name]
            working = sum(i.working for i in llm.instances.values() if not i.draining)
            assert len(llm.unclaimed) + working <= llm.slots, f"{name} has more than its {llm.slots} slots can do"
