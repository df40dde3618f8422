"""The ledger: the accounts in memory, what is reserved for running attempts, and what ended attempts are charged.

In memory are the named accounts of the present periods, and the accounts of tasks that are in memory. What is reserved
follows from the tasks that are assigned or running, so nothing can stay reserved after a restart.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from enum import IntEnum

from broker.protocol.status import UNANSWERED, Outcome
from broker.protocol.worker_reports import Usage
from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.account import Account, AccountKey, Hold, is_of_task, name_of_task
from coordinator.core.budgets.budget import Budget, Figures
from coordinator.core.budgets.periods import end
from coordinator.core.events import NEVER
from coordinator.core.llms.cost_estimates import is_free, nanos_of, priced
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import Attempt, Task

KEPT = 1000  # accounts of tasks in memory, before those are dropped that no task in memory needs
FEW = 8  # tasks


class Wake(IntEnum):
    """Which of the tasks that wait for an account try again."""

    FEW = 1  # the first by rank
    WAITING = 2  # all but the one that asks a person
    ALL = 3


class Ledger:
    """All accounts of the present. `stopped` is the reason while all spending is stopped, None otherwise."""

    def __init__(self) -> None:
        self.budgets: dict[str, Budget] = {}
        self.accounts: dict[AccountKey, Account] = {}
        self.stopped: str | None = None
        self.touched: dict[AccountKey, Account] = {}  # look at these: something was spent, used or changed
        self.look_at_runs = False  # whether a run may go on although all spending is stopped
        self.changed: dict[AccountKey, Account] = {}  # to store
        self.wakes: dict[str, Wake] = {}  # by the label of the account
        self._charged: dict[str, list[Account]] = {}  # the accounts of each running attempt, by task
        self._asking: dict[str, AccountKey] = {}  # by the task whose question a person has to answer
        self._kept = KEPT
        self._periods: dict[str, tuple[Instant, Instant]] = {}
        self._asked_for: tuple[str, str, Instant, int] = ("", "", EPOCH, 0)
        self._found: tuple[list[Account], Figures] = ([], Figures())
        self._next_end: Instant = NEVER  # of a period

    # -- accounts --------------------------------------------------------------------------------------------------

    def know(self, accounts: Iterable[Account]) -> None:
        """Take accounts from the database into memory, unless they are there."""
        for account in accounts:
            if account.key not in self.accounts:
                self._add(account)

    def _add(self, account: Account) -> Account:
        self.accounts[account.key] = account
        if account.until is not None:
            self._next_end = min(self._next_end, account.until)
        if account.asked is not None:
            self._asking[account.asked] = account.key
        return account

    def begin_tree(self, task: Task, parent: Task | None) -> None:
        """A new task has the budgets of its parent, and its own."""
        task.charged_to = () if parent is None else parent.charged_to
        if task.spec.budget is not None:
            task.charged_to = (*task.charged_to, task.id)
            account = self._add(Account.of_task(task.id, task.spec.budget))
            self.changed[account.key] = account

    def keys(self, task: Task, llm: LLM, at: Instant) -> list[AccountKey]:
        """Return the accounts that an attempt is charged to which is assigned to an LLM at that time."""
        keys = [_task_key(above) for above in task.charged_to]
        for budget in self.budgets.values():
            if budget.begun <= at:
                since = self._since(budget, at)
                keys += [AccountKey(budget.name, value, since) for value in budget.values(task, llm)]
        return keys

    def _since(self, budget: Budget, at: Instant) -> Instant:
        """Return the beginning of the period of a moment, which is mostly the same as of the moment before."""
        since, until = self._periods.get(budget.per, (NEVER, NEVER))
        if not since <= at < until:
            since = budget.since(at)
            self._periods[budget.per] = since, end(budget.per, since)
        return since

    def missing(self, tasks: Iterable[Task]) -> set[AccountKey]:
        """Return the accounts of these tasks and their trees that are not in memory."""
        keys = {_task_key(above) for task in tasks for above in task.charged_to}
        return {key for key in keys if key not in self.accounts}

    def starts(self, now: Instant) -> dict[str, Instant]:
        """Return the beginning of the present period of each named budget."""
        return {budget.name: budget.since(now) for budget in self.budgets.values()}

    def present(self, name: str, now: Instant) -> list[Account]:
        """Return the accounts of a named budget in its present period, or the account of a task."""
        budget = self.budgets.get(name)
        since = EPOCH if budget is None else budget.since(now)
        found = [account for key, account in self.accounts.items() if key.name == name and key.since == since]
        return [account for account in found if account.is_open or account.is_of_task]

    def account(self, key: AccountKey) -> Account:
        """Return an account, a new one if nothing was charged to it yet."""
        known = self.accounts.get(key)
        return self._add(Account.of_budget(self.budgets[key.name], key.value, key.since)) if known is None else known

    def forget(self, tasks: Iterable[Task], now: Instant) -> None:
        """After the commit, drop the accounts that nothing in memory needs: of other tasks, and of former periods."""
        if self._next_end <= now:
            self._end_periods(now)
        if len(self.accounts) > self._kept:
            needed = {name_of_task(above) for task in tasks for above in task.charged_to}
            for key in [key for key in self.accounts if is_of_task(key.name) and key.name not in needed]:
                del self.accounts[key]
            self._kept = KEPT + 2 * len(self.accounts)

    def _end_periods(self, now: Instant) -> None:
        """Close the accounts of periods that are over, and drop them once that is stored."""
        self._next_end = NEVER
        for account in [account for account in self.accounts.values() if account.until is not None]:
            over = account.until is not None and account.until <= now and not account.holds
            if over and not account.is_open and account.key not in self.changed:
                del self.accounts[account.key]
                continue
            if over and account.is_open:
                account.is_open = False
                self.changed[account.key] = account
            self._next_end = min(self._next_end, account.until or NEVER)

    def tree_ended(self, task_id: str) -> None:
        """A task ended. Its account is closed; if it asked a person about a budget, another one may ask."""
        if (account := self.accounts.get(_task_key(task_id))) and not account.holds:
            account.is_open = False
            self.changed[account.key] = account
        if (asked := self.asked_by(task_id)) is not None:
            asked.asked = None
            self.change(asked)
            self.wake(asked, Wake.ALL)

    def close(self, account: Account) -> None:
        """Nothing is charged to an account any more, but by attempts that are under way: its waiting tasks go on."""
        account.is_open, account.asked = False, None
        self.changed[account.key] = account
        self.wake(account, Wake.ALL)

    def ask(self, account: Account, task_id: str) -> None:
        """A task asks a person about an account."""
        account.asked = task_id
        self._asking[task_id] = account.key
        self.change(account)

    def asked_by(self, task_id: str) -> Account | None:
        """Return the account about which a task asks a person."""
        key = self._asking.pop(task_id, None)
        account = None if key is None else self.accounts.get(key)
        return account if account is not None and account.asked == task_id else None

    # -- before an attempt -----------------------------------------------------------------------------------------

    def objection(self, task: Task, llm: LLM, eligible: Collection[LLM], now: Instant) -> str | None:
        """Return why an LLM must not get a task that any of the eligible ones can do; None when it may.

        Where too little is left for an LLM, and another one is free of charge, the task waits for that one.
        """
        if not self.budgets and not task.charged_to and self.stopped is None:
            return None
        price = llm.properties.price
        if self.stopped is not None and not is_free(price):
            return f"all spending is stopped{self.stopped and f': {self.stopped}'}"
        if price is None and (limiting := self._in_dollars(task, llm)):
            return f"the price of {llm.name} is unknown, and {limiting} is in US dollars"
        if price is None or is_free(price):
            return None
        accounts, need = self.request(task, llm, now)
        short = next((account for account in accounts if not account.fits(need)), None)
        if short is None or not short.fits(need._replace(nanos=0)):
            return None
        for_nothing = next((it for it in eligible if it.state == "online" and is_free(it.properties.price)), None)
        if for_nothing is None:
            return None
        return f"waits for {for_nothing.name}: too little is left of {short} for {llm.name}"

    def _in_dollars(self, task: Task, llm: LLM) -> str | None:
        for above in task.charged_to:
            account = self.accounts.get(_task_key(above))
            if account is not None and account.own.nanos is not None:
                return str(account)
        for budget in self.budgets.values():
            if budget.figures.nanos is not None and budget.values(task, llm):
                return f"the budget {budget.name}"
        return None

    def request(self, task: Task, llm: LLM, now: Instant) -> tuple[list[Account], Figures]:
        """Return the accounts that an attempt would be charged to which is assigned now, and what it may need.

        The last answer is kept: a policy asks first, and then the task is admitted.
        """
        if not self.budgets and not task.charged_to:
            return [], Figures()
        asked_for = task.id, llm.name, now, task.attempt
        if asked_for != self._asked_for:
            costs, size = llm.learned.costs, task.size
            need = Figures(costs.nanos_for(size, llm.properties.price), costs.tokens_for(size), 1)
            self._found = [self.account(key) for key in self.keys(task, llm, now)], need
            self._asked_for = asked_for
        return self._found

    def forget_request(self) -> None:
        """Something has changed since the last request."""
        self._asked_for = "", "", EPOCH, 0

    def reserve(self, task: Task, accounts: Sequence[Account], need: Hold) -> None:
        """Reserve what the next attempt at a task is expected to use."""
        task.reserved_nanos, task.reserved_tokens = need.nanos, need.tokens
        self._charged[task.id] = list(accounts)
        for account in accounts:
            account.hold(task.id, need)
            if not account.is_open:
                account.is_open = True
                self.change(account)

    def resume(self, task: Task, llm: LLM) -> None:
        """After a restart: what an assigned or running task has reserved is reserved still."""
        if task.reserved_tokens is None:
            return
        used = task.usage
        reserved = task.reserved_nanos or 0, task.reserved_tokens
        hold = Hold(*reserved, _nanos(used, llm) or 0, _tokens(used) or 0, parked=task.parked)
        self._charged[task.id] = [self.account(key) for key in self._keys_of(task, llm, task.assigned_at)]
        for account in self._charged[task.id]:
            account.hold(task.id, hold)
            self.touched[account.key] = account

    def _keys_of(self, task: Task, llm: LLM, assigned_at: Instant | None) -> list[AccountKey]:
        keys = self.keys(task, llm, assigned_at or EPOCH)
        return [key for key in keys if key in self.accounts or not is_of_task(key.name)]

    def allowance(self, task: Task) -> Figures:
        """Return what the attempt at a task may use: what it has reserved, and what is left."""
        accounts = self._charged.get(task.id, ())
        left = [account.left for account in accounts]
        nanos = [it.nanos for it in left if it.nanos is not None]
        tokens = [it.tokens for it in left if it.tokens is not None]
        return Figures(
            max(0, min(nanos)) + (task.reserved_nanos or 0) if nanos else None,
            max(0, min(tokens)) + (task.reserved_tokens or 0) if tokens else None,
        )

    # -- while it runs, and when it ends ---------------------------------------------------------------------------

    def use(self, task: Task, llm: LLM) -> None:
        """A running attempt has reported its usage so far, which the task has."""
        for account in self._charged.get(task.id, ()):
            held = account.holds[task.id]
            nanos, tokens = _nanos(task.usage, llm) or 0, _tokens(task.usage) or 0
            account.hold(task.id, held._replace(used_nanos=nanos, used_tokens=tokens))
            self.touched[account.key] = account

    def park(self, task: Task) -> None:
        """The attempt of a task waits, or goes on: then it may have nothing left to use."""
        for account in self._charged.get(task.id, ()):
            account.hold(task.id, account.holds[task.id]._replace(parked=task.parked))
            self.touched[account.key] = account
            if task.parked:
                self._wake_for_room(account)
        self.look_at_runs = self.look_at_runs or not task.parked

    def settle(self, task: Task, attempt: Attempt, llm: LLM) -> Attempt:
        """Charge an attempt that ended, and give back what it had reserved. Return the attempt with what it is charged.

        An attempt of unknown cost is charged what it had reserved, where a figure is in dollars; likewise for tokens.
        """
        if task.reserved_tokens is None:
            return attempt
        accounts = self._charged.pop(task.id, None)
        if accounts is None:  # a late result
            accounts = [self.account(key) for key in self._keys_of(task, llm, attempt.assigned_at)]
        charged = _charge(task, attempt, llm, accounts)
        for account in accounts:
            account.let_go(task.id)
            self._charge(account, charged, 1)
            self._wake_for_room(account)
        task.reserved_nanos = task.reserved_tokens = None
        return charged

    def take_back(self, task: Task, attempt: Attempt, llm: LLM) -> None:
        """A late result replaces the record of an attempt: take back what that was charged."""
        if attempt.charged_tokens is None:
            return
        for key in self._keys_of(task, llm, attempt.assigned_at):
            self._charge(self.account(key), attempt, -1)
        task.reserved_nanos, task.reserved_tokens = attempt.charged_nanos, attempt.charged_tokens

    def correct(self, task: Task, attempt: Attempt, usage: Usage, llm: LLM) -> Attempt:
        """A worker has reported what an attempt used that was ended without it: return the corrected record."""
        if attempt.charged_tokens is None:
            return replace(attempt, usage=usage)
        nanos, tokens = _nanos(usage, llm), _tokens(usage)
        charged_nanos = attempt.charged_nanos if nanos is None else nanos
        charged_tokens = attempt.charged_tokens if tokens is None else tokens
        corrected = replace(attempt, usage=usage, charged_nanos=charged_nanos, charged_tokens=charged_tokens)
        for key in self._keys_of(task, llm, attempt.assigned_at):
            self._charge(self.account(key), attempt, -1)
            self._charge(self.account(key), corrected, 1)
        return corrected

    def _charge(self, account: Account, attempt: Attempt, sign: int) -> None:
        nanos, tokens = attempt.charged_nanos or 0, attempt.charged_tokens or 0
        runs, unknown = _ran(attempt), _is_unknown(attempt)
        account.charge(sign * nanos, sign * tokens, runs=sign * runs, unknown=sign * unknown)
        self.change(account)

    def change(self, account: Account) -> None:
        """Store an account, and look at what follows from its change."""
        self.changed[account.key] = self.touched[account.key] = account

    # -- waiting tasks ---------------------------------------------------------------------------------------------

    def wait(self, account: Account) -> None:
        """A task waits for this account."""
        if not account.waiting:
            account.waiting = True
            self.change(account)

    def wake(self, account: Account, which: Wake) -> None:
        """Let tasks that wait for this account try again."""
        self.wakes[account.label] = max(which, self.wakes.get(account.label, which))
        if account.waiting and which is not Wake.FEW:
            account.waiting = False
            self.change(account)

    def _wake_for_room(self, account: Account) -> None:
        """An attempt has given back what it had reserved: let others try, all of them if nothing runs any more."""
        if account.waiting and not (account.is_empty and account.on_empty == "wait"):
            self.wake(account, Wake.FEW if account.active else Wake.WAITING)

    def take_changes(self) -> tuple[dict[AccountKey, Account], dict[str, Wake]]:
        """Return the accounts to store, and whose waiting tasks wake."""
        changed, self.changed = self.changed, {}
        wakes, self.wakes = self.wakes, {}
        return changed, wakes


def _task_key(task_id: str) -> AccountKey:
    return AccountKey(name_of_task(task_id), "", EPOCH)


def _charge(task: Task, attempt: Attempt, llm: LLM, accounts: Sequence[Account]) -> Attempt:
    """Return the attempt with what it is charged."""
    if not _ran(attempt):
        return replace(attempt, charged_nanos=0, charged_tokens=0)
    nanos, tokens = _nanos(attempt.usage, llm), _tokens(attempt.usage)
    if nanos is None and any(account.own.nanos is not None for account in accounts):
        nanos = task.reserved_nanos or llm.learned.costs.nanos_for(task.size, llm.properties.price)
    if tokens is None:
        limited = any(account.own.tokens is not None for account in accounts)
        tokens = (task.reserved_tokens or llm.learned.costs.tokens_for(task.size)) if limited else 0
    return replace(attempt, charged_nanos=nanos, charged_tokens=tokens)


def _ran(attempt: Attempt) -> bool:
    """Whether the attempt may have cost something."""
    if attempt.usage is None and attempt.error is not None and attempt.error.type in UNANSWERED:
        return False
    return attempt.started_at is not None or attempt.outcome in (Outcome.COMPLETED, Outcome.FAILED)


def _is_unknown(attempt: Attempt) -> bool:
    """Whether nobody has reported what the attempt cost, and it did cost something."""
    reported = attempt.usage is not None and attempt.usage.cost_usd is not None
    return _ran(attempt) and not reported and attempt.charged_nanos != 0


def _nanos(usage: Usage | None, llm: LLM) -> int | None:
    """Return the cost of a usage in nanodollars; None where it is unknown."""
    price = llm.properties.price
    if usage is not None and usage.cost_usd is not None:
        return nanos_of(usage.cost_usd)
    if is_free(price):
        return 0
    if usage is None or price is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return priced(price, usage)


def _tokens(usage: Usage | None) -> int | None:
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)
