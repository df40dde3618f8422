"""Requests about budgets: set, raise, drop; and to stop all spending."""

from dataclasses import replace

from broker.errors import Problem, did_you_mean
from broker.protocol.spending import ManageBudget
from broker.timestamps import Instant
from coordinator.core.budgets.account import Account, AccountKey, is_of_task
from coordinator.core.budgets.budget import Budget, Figures
from coordinator.core.budgets.ledger import Wake
from coordinator.core.budgets.view import budget_list
from coordinator.core.commands import AnswerRequest
from coordinator.core.events import ManageBudgetRequested, ManageSpendingRequested, Sender
from coordinator.core.llms.cost_estimates import nanos_of
from coordinator.core.state import CoreState

SPENDING = "spending"  # the name of the setting
MOST_NANOS = nanos_of(10**9)
MOST_TOKENS = 10**15
MOST_RUNS = 10**12
_DEFINING = frozenset({"usd", "tokens", "runs", "per", "by", "on_empty"})


class BudgetControl:
    """Does what a request asks, or refuses the request with the reason. The accounts of the budget are in memory."""

    def __init__(self, state: CoreState) -> None:
        self._state = state
        self._ledger = state.budgets

    def manage(self, event: ManageBudgetRequested, now: Instant) -> None:
        """Set, raise or drop a budget."""
        order, sender = event.order, event.sender
        problem = self._drop(order) if order.drop else self._set_and_raise(order, now)
        if problem is not None:
            self._state.refuse(order.budget, sender, problem)
        else:
            self._confirm(sender, order.budget, now)

    def stop_or_allow(self, event: ManageSpendingRequested, now: Instant) -> None:
        """Stop all spending, or allow it again."""
        order = event.order
        self._ledger.stopped = order.reason if order.stopped else None
        self._ledger.look_at_runs = order.stopped
        self._state.changes.settings[SPENDING] = {"stopped": self._ledger.stopped}
        self._confirm(event.sender, None, now)

    def _confirm(self, sender: Sender, name: str | None, now: Instant) -> None:
        if sender.reply_to:
            view = budget_list(self._ledger, name, now)
            self._state.emit(AnswerRequest("budget.accepted", sender.reply_to, sender.correlation_id, view))

    def _drop(self, order: ManageBudget) -> Problem | None:
        budget = self._ledger.budgets.pop(order.budget, None)
        if budget is None:
            return self._unknown(order.budget)
        self._state.changes.budgets[budget.name] = None
        for account in [it for it in self._ledger.accounts.values() if it.key.name == budget.name]:
            account.refused = False
            self._ledger.close(account)
        return None

    def _set_and_raise(self, order: ManageBudget, now: Instant) -> Problem | None:
        given = order.model_fields_set
        raised = Figures(nanos_of(order.raise_usd or 0), order.raise_tokens or 0, order.raise_runs or 0)
        if is_of_task(order.budget):
            accounts = self._ledger.present(order.budget, now)
            return self._raise(accounts, raised) if accounts else self._unknown(order.budget)
        known = self._ledger.budgets.get(order.budget)
        if known is None and not given & _DEFINING:
            return self._unknown(order.budget)
        budget = self._changed(order, known, now)
        if isinstance(budget, Problem):
            return budget
        if not any(raised):
            self._store(budget, known, now)
            return None
        if budget.by is None and order.value is not None:
            return Problem("value", f"the budget {budget.name} is one for all")
        if budget.by is not None and order.value is None:
            return Problem("value", f"is missing: each {budget.by} has a separate budget")
        if problem := _too_much(budget.figures, raised):
            return problem
        self._store(budget, known, now)
        return self._raise(
            [self._ledger.account(AccountKey(budget.name, order.value or "", budget.since(now)))], raised
        )

    def _raise(self, accounts: list[Account], raised: Figures) -> Problem | None:
        for account in accounts:
            if problem := _too_much(account.limits, raised):
                return problem
        for account in accounts:
            account.raise_by(raised)
            self._ledger.change(account)
            self._ledger.wake(account, Wake.ALL)
        return None

    def _changed(self, order: ManageBudget, known: Budget | None, now: Instant) -> Budget | Problem:
        """Return the budget as the request wants it; a new one if it is unknown."""
        given = order.model_fields_set
        before = known or Budget(order.budget, Figures(), "month", None, "wait", now)
        nanos, tokens, runs = before.figures
        if "usd" in given:
            nanos = None if order.usd is None else max(1, nanos_of(order.usd))
        if "tokens" in given:
            tokens = order.tokens
        if "runs" in given:
            runs = order.runs
        budget = replace(
            before,
            figures=Figures(nanos, tokens, runs),
            per=order.per or "month" if "per" in given else before.per,
            by=order.by if "by" in given else before.by,
            on_empty=order.on_empty or "wait" if "on_empty" in given else before.on_empty,
        )
        if not any(budget.figures):
            nothing = "nothing is left to limit: give usd, tokens or runs"
            return Problem("budget", nothing if known is None else f"{nothing}, or drop the budget")
        if (budget.per, budget.by) != (before.per, before.by):
            budget = replace(budget, begun=now)
        return budget

    def _store(self, budget: Budget, before: Budget | None, now: Instant) -> None:
        """Store a budget. Its accounts have the new figures; those of other periods or dimensions are closed."""
        if budget == before:
            return
        self._ledger.budgets[budget.name] = self._state.changes.budgets[budget.name] = budget
        for account in [it for it in self._ledger.accounts.values() if it.key.name == budget.name]:
            if account.key.since == budget.since(now) and (account.key.value == "") == (budget.by is None):
                account.adopt(budget)
                self._ledger.change(account)
                self._ledger.wake(account, Wake.ALL)
            elif account.is_open:
                self._ledger.close(account)

    def _unknown(self, name: str) -> Problem:
        if is_of_task(name):
            return Problem("budget", f"there is no task {name.partition(':')[2]} that has a budget")
        return Problem("budget", f"there is no budget {name}{did_you_mean(name, self._ledger.budgets)}")


def _too_much(figures: Figures, raised: Figures) -> Problem | None:
    """Return why a budget cannot be raised by so much; None when it can."""
    names = ("raise_usd", "raise_tokens", "raise_runs")
    for name, own, more, most in zip(names, figures, raised, (MOST_NANOS, MOST_TOKENS, MOST_RUNS), strict=True):
        if more and own is None:
            return Problem(name, f"the budget does not limit {name.removeprefix('raise_')}")
        if more and own is not None and own + more > most:
            return Problem(name, "the budget would be absurdly large")
    return None
