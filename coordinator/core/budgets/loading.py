"""What the ledger reads from the database, and when."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.account import Account, AccountKey, is_of_task
from coordinator.core.budgets.budget import Budget
from coordinator.core.budgets.periods import beginning
from coordinator.core.events import ClockSet, Event, ManageBudgetRequested, Reported
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import Task


class AccountLoader(Protocol):
    """Reads accounts from the database. Every account is a fresh object."""

    def accounts(self, keys: Iterable[AccountKey], /) -> list[Account]:
        """Return the accounts with these keys, where they exist."""

    def accounts_since(self, starts: Mapping[str, Instant], /) -> list[Account]:
        """Return the accounts of these budgets whose periods begin then, or later, and those that are open."""


class BudgetLoader(AccountLoader, Protocol):
    """Reads what a new ledger begins with, too."""

    def budgets(self) -> list[Budget]:
        """Return the named budgets."""

    def spending_stopped(self) -> str | None:
        """Return the reason while all spending is stopped, else None."""


def restore(state: CoreState, loader: BudgetLoader, now: Instant) -> None:
    """Give a new state the ledger of the database. What is reserved follows from the assigned and running tasks."""
    ledger = state.budgets
    ledger.budgets = {budget.name: budget for budget in loader.budgets()}
    ledger.stopped = loader.spending_stopped()
    ledger.look_at_runs = ledger.stopped is not None
    in_hand = [task for task in state.tasks.values() if task.in_hand]
    used = {
        key
        for task in in_hand
        if task.reserved_tokens is not None
        for key in ledger.keys(task, state.llm(task.llm or ""), task.assigned_at or now)
    }
    ledger.know(loader.accounts(used | ledger.missing(in_hand)))
    ledger.know(loader.accounts_since(ledger.starts(now)))
    for task in in_hand:
        ledger.resume(task, state.llm(task.llm or ""))


def load_for_tasks(state: CoreState, loader: AccountLoader, tasks: Sequence[Task]) -> None:
    """Load the accounts of the trees of tasks that were loaded."""
    if missing := state.budgets.missing(tasks):
        state.budgets.know(loader.accounts(missing))


def load_for_events(state: CoreState, loader: AccountLoader, events: Iterable[Event], now: Instant) -> None:
    """Load the accounts that the events are about."""
    ledger = state.budgets
    for event in events:
        match event:
            case ManageBudgetRequested(order):
                if is_of_task(order.budget):
                    ledger.know(loader.accounts([AccountKey(order.budget, "", EPOCH)]))
                else:
                    known = ledger.budgets.get(order.budget)
                    pers = {order.per or (known.per if known else "month"), known.per if known else "month"}
                    start = min(beginning(per, now) for per in pers)
                    ledger.know(loader.accounts_since({order.budget: start}))
            case ClockSet():
                ledger.know(loader.accounts_since(ledger.starts(now)))
            case Reported(llm, result) if (task := state.tasks.get(result.task_id)) and ledger.budgets:
                late = [it for it in task.attempts if it.attempt == result.attempt and it.assigned_at is not None]
                keys = {
                    key for it in late if it.assigned_at for key in ledger.keys(task, state.llm(llm), it.assigned_at)
                }
                if late and (missing := {key for key in keys if key not in ledger.accounts}):
                    ledger.know(loader.accounts(missing))
