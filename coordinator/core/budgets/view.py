"""The views of budgets for people and programs."""

from typing import Any

from broker.mappings import without_none
from broker.timestamps import Instant, to_iso
from coordinator.core.budgets.account import Account
from coordinator.core.budgets.budget import Budget
from coordinator.core.budgets.ledger import Ledger
from coordinator.core.llms.cost_estimates import in_usd


def account_view(account: Account, budget: Budget | None) -> dict[str, Any]:
    """Return an account as JSON-able data: the fields of spending.BudgetView. `budget` None: that of a task."""
    limits, left = account.limits, account.left
    shown = {
        "name": account.key.name,
        "value": account.key.value or None,
        "usd": None if limits.nanos is None else in_usd(limits.nanos),
        "tokens": limits.tokens,
        "runs": limits.runs,
        "per": budget and budget.per,
        "by": budget and budget.by,
        "on_empty": account.on_empty,
        "state": _state(account),
        "spent_usd": in_usd(account.spent_nanos + account.used_nanos),
        "spent_tokens": account.spent_tokens + account.used_tokens,
        "spent_runs": account.spent_runs,
        "unknown_runs": account.unknown_runs,
        "reserved_usd": in_usd(account.taken_nanos - account.used_nanos),
        "reserved_tokens": account.taken_tokens - account.used_tokens,
        "left_usd": None if left.nanos is None else in_usd(max(0, left.nanos)),
        "left_tokens": None if left.tokens is None else max(0, left.tokens),
        "left_runs": None if left.runs is None else max(0, left.runs),
        "since": to_iso(account.key.since) if account.key.since else None,
        "until": to_iso(account.until),
    }
    return without_none(shown)


def budget_list(ledger: Ledger, name: str | None, now: Instant) -> dict[str, Any]:
    """Return the budgets of that name, or all named ones: the fields of spending.BudgetList.

    A budget to which nothing is charged in the present period is shown without a value.
    """
    shown = []
    for wanted in sorted(ledger.budgets) if name is None else [name]:
        budget = ledger.budgets.get(wanted)
        accounts = sorted(ledger.present(wanted, now), key=lambda account: account.key)
        if not accounts and budget is not None:
            accounts = [Account.of_budget(budget, "", budget.since(now))]
        shown += [account_view(account, budget) for account in accounts]
    return without_none({"budgets": shown, "stopped": ledger.stopped})


def spent_of(account: Account) -> dict[str, Any]:
    """Return what is spent of the budget of a task: two fields of `budget` in views.TaskView."""
    return {
        "spent_usd": in_usd(account.spent_nanos + account.used_nanos),
        "spent_tokens": account.spent_tokens + account.used_tokens,
    }


def _state(account: Account) -> str:
    if account.is_empty:
        return "empty"
    return "warning" if account.will_be_nearly_empty else "ok"
