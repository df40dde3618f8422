"""What follows when something was spent: warnings, runs that are stopped, tasks that try again."""

from typing import Literal

from broker.protocol.status import Outcome, Status
from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.account import Account
from coordinator.core.budgets.admission import RAISE, exceeded
from coordinator.core.budgets.ledger import Wake
from coordinator.core.budgets.view import account_view
from coordinator.core.commands import AnnounceBudget
from coordinator.core.llms.cost_estimates import is_free
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import COORDINATOR, Task


def enforce(state: CoreState, now: Instant) -> None:
    """Announce accounts that run empty, and stop what runs although nothing is left or all spending is stopped."""
    ledger = state.budgets
    ledger.forget_request()
    while ledger.touched:
        _, account = ledger.touched.popitem()
        _announce(state, account, now)
        if account.no_tokens or account.no_money:
            _stop_runs(state, account, now)
    if ledger.look_at_runs:
        ledger.look_at_runs = False
        if ledger.stopped is not None:
            _stop_paid_runs(state, now)


def store_changes(state: CoreState) -> None:
    """Add what changed to the changes of the batch."""
    changed, wakes = state.budgets.take_changes()
    state.changes.accounts.update(changed)
    state.changes.wakes.update(wakes)
    if wakes:
        state.next_wake = EPOCH


def answered(state: CoreState, task: Task, answer: str, now: Instant) -> None:
    """A person has answered the question of a task about a budget."""
    account = state.budgets.asked_by(task.id)
    if answer == RAISE:
        if account is not None:
            raise_once_more(state, account)
        state.release(task, now)
        return
    if account is None:  # a period that is over
        state.release(task, now)
        return
    account.asked, account.refused = None, True
    state.budgets.change(account)
    state.budgets.wake(account, Wake.ALL)
    state.fail(task, exceeded(account), now)


def period_ended(state: CoreState, task: Task, now: Instant) -> None:
    """A task asks a person about an account that was raised meanwhile, or whose period is over: it tries again."""
    state.budgets.asked_by(task.id)
    task.note(now, COORDINATOR, "the question about the budget is withdrawn")
    state.release(task, now)


def raise_once_more(state: CoreState, account: Account) -> None:
    """Add the figures of the budget to an account once more."""
    account.raise_by(account.own)
    state.budgets.change(account)
    state.budgets.wake(account, Wake.ALL)


def _announce(state: CoreState, account: Account, now: Instant) -> None:
    why: Literal["warning", "empty"] | None = None
    if account.is_empty and not account.emptied:
        account.emptied = account.warned = True
        why = "empty"
    elif account.is_nearly_empty and not account.warned:
        account.warned = True
        why = "warning"
    if why is not None:
        state.budgets.changed[account.key] = account
        view = account_view(account, state.budgets.budgets.get(account.key.name))
        state.emit(AnnounceBudget(now, account.key.name, why, view))


def _stop_runs(state: CoreState, account: Account, now: Instant) -> None:
    """Stop the attempts that use what nothing is left of. A parked attempt uses nothing before it goes on."""
    for task_id, hold in list(account.holds.items()):
        costs = account.no_tokens or hold.nanos or hold.used_nanos
        if costs and not hold.parked:
            task = state.tasks[task_id]
            why = f"{account} is used up"
            task.note(now, COORDINATOR, f"stopped: {why}")
            started = task.status is not Status.ASSIGNED
            state.withdraw(task, Outcome.CANCELLED, why, now)
            if account.on_empty == "fail" or account.refused:
                state.fail(task, exceeded(account), now)
            else:
                state.release(task, now, counts=not started)


def _stop_paid_runs(state: CoreState, now: Instant) -> None:
    """Take back the attempts of LLMs that cost money, or may. They do not count."""
    why = "all spending is stopped"
    for llm in state.llms.values():
        if is_free(llm.properties.price):
            continue
        for task in [state.tasks[task_id] for task_id, parked in llm.tasks().items() if not parked]:
            started = task.status is not Status.ASSIGNED
            task.note(now, COORDINATOR, f"stopped: {why}")
            state.withdraw(task, Outcome.CANCELLED, why, now)
            state.release(task, now, counts=not started)
