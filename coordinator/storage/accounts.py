"""Budgets and their accounts in the database, and whether all spending is stopped."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import Connection, select, update

from broker.timestamps import Instant
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.budgets.budget import Budget, Figures
from coordinator.core.budgets.control import SPENDING
from coordinator.core.budgets.ledger import FEW, Wake
from coordinator.core.state import StateChanges
from coordinator.storage import schema
from coordinator.storage.bulk_sql import delete_rows, upsert_rows
from coordinator.storage.rows import Row

AT_ONCE = Instant(1)  # a `wake_at` that is over
_CHUNK = 500  # names in one IN (…)

_tasks, _accounts = schema.tasks, schema.budget_accounts


def write(connection: Connection, changes: StateChanges) -> None:
    """Store what a batch changed of budgets, and wake the tasks that wait for them."""
    dropped = [{"name": name} for name, budget in changes.budgets.items() if budget is None]
    delete_rows(connection, schema.budgets, dropped)
    kept = [
        {"name": name, "definition": to_json(budget.plain()).decode()}
        for name, budget in changes.budgets.items()
        if budget is not None
    ]
    upsert_rows(connection, schema.budgets, kept)
    upsert_rows(connection, _accounts, [_row(account) for account in changes.accounts.values()])
    settings = [{"name": name, "value": to_json(value).decode()} for name, value in changes.settings.items()]
    upsert_rows(connection, schema.settings, settings)
    for label, which in changes.wakes.items():
        _wake(connection, label, which)


def budgets(connection: Connection) -> list[Budget]:
    """Return the named budgets."""
    rows = connection.execute(select(schema.budgets).order_by(schema.budgets.c.name))
    return [Budget.from_plain(row.name, from_json(row.definition)) for row in rows]


def with_keys(connection: Connection, keys: Iterable[AccountKey]) -> list[Account]:
    """Return the accounts with these keys, where they exist."""
    wanted = set(keys)
    names = sorted({key.name for key in wanted})
    sinces = sorted({key.since for key in wanted})
    found: list[Account] = []
    for start in range(0, len(names), _CHUNK):
        some = select(_accounts).where(_accounts.c.name.in_(names[start : start + _CHUNK]))
        found += map(_account, connection.execute(some.where(_accounts.c.since.in_(sinces))).mappings())
    return [account for account in found if account.key in wanted]


def since(connection: Connection, starts: Mapping[str, Instant]) -> list[Account]:
    """Return the accounts of these budgets whose periods begin then, or later, and those that are open."""
    found: list[Account] = []
    for name, start in starts.items():
        wanted = (_accounts.c.since >= start) | (_accounts.c.is_open == 1)
        rows = connection.execute(select(_accounts).where(_accounts.c.name == name, wanted))
        found += [_account(row) for row in rows.mappings()]
    return found


def spending_stopped(connection: Connection) -> str | None:
    """Return the reason while all spending is stopped, else None."""
    value = connection.scalar(select(schema.settings.c.value).where(schema.settings.c.name == SPENDING))
    stopped: str | None = None if value is None else from_json(value)["stopped"]
    return stopped


def _wake(connection: Connection, label: str, which: Wake) -> None:
    waiting = _tasks.c.waits_for == label
    if which is not Wake.ALL:
        waiting &= _tasks.c.status == "blocked"
    if which is Wake.FEW:
        order = (_tasks.c.priority.desc(), _tasks.c.due_order, _tasks.c.seq)
        first = select(_tasks.c.seq).where(waiting).order_by(*order).limit(FEW)
        waiting = _tasks.c.seq.in_(first.scalar_subquery())
    connection.execute(update(_tasks).where(waiting).values(wake_at=AT_ONCE))


def _row(account: Account) -> dict[str, Any]:
    limits = account.limits
    return {
        "name": account.key.name,
        "value": account.key.value,
        "since": account.key.since,
        "is_open": int(account.is_open),
        "usd_nanos": limits.nanos,
        "tokens": limits.tokens,
        "runs": limits.runs,
        "spent_nanos": account.spent_nanos,
        "spent_tokens": account.spent_tokens,
        "spent_runs": account.spent_runs,
        "unknown_runs": account.unknown_runs,
        "state": to_json(account.state()).decode(),
    }


def _account(row: Row) -> Account:
    state = from_json(row["state"])
    until = None if state["until"] is None else Instant(state["until"])
    account = Account(
        AccountKey(row["name"], row["value"], Instant(row["since"])),
        Figures(*state["own"]),
        state["on_empty"],
        until,
        is_open=bool(row["is_open"]),
        spent_nanos=row["spent_nanos"],
        spent_tokens=row["spent_tokens"],
        spent_runs=row["spent_runs"],
        unknown_runs=row["unknown_runs"],
    )
    account.restore(state)
    return account
