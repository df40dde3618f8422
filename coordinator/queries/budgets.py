"""The answer to the query `budgets`, and what is spent of the budget of a task."""

from typing import Any

from sqlalchemy import Connection, null, select

from broker.errors import Problem, QueryRejected, did_you_mean
from broker.protocol.spending import BudgetsQuery
from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.account import AccountKey, is_of_task, name_of_task
from coordinator.core.budgets.ledger import Ledger
from coordinator.core.budgets.view import budget_list, spent_of
from coordinator.core.llms.llm import LLM
from coordinator.storage import accounts, schema
from coordinator.storage.rows import llm_of, task_of

_tasks, _llms = schema.tasks, schema.llms
_BULK = ("inputs", "result", "history", "questions")  # nothing in them concerns budgets


def listed(connection: Connection, query: BudgetsQuery, now: Instant) -> dict[str, Any]:
    """Return the budgets: the fields of spending.BudgetList."""
    ledger = _ledger(connection, now, query.name)
    if query.name is not None and query.name not in ledger.budgets and not ledger.present(query.name, now):
        if is_of_task(query.name):
            raise QueryRejected([Problem("name", f"the task {query.name.partition(':')[2]} has no budget")])
        hint = did_you_mean(query.name, ledger.budgets)
        raise QueryRejected([Problem("name", f"there is no budget {query.name}{hint}")])
    return budget_list(ledger, query.name, now)


def spent_of_tree(connection: Connection, task_id: str, now: Instant) -> dict[str, Any]:
    """Return what the tree of a task has spent of its budget; nothing where that is not known."""
    name = name_of_task(task_id)
    found = _ledger(connection, now, name).present(name, now)
    return spent_of(found[0]) if found else {}


def _ledger(connection: Connection, now: Instant, name: str | None) -> Ledger:
    """Return the ledger as the leading coordinator has it. Reservations follow from the assigned and running tasks."""
    ledger = Ledger()
    ledger.budgets = {budget.name: budget for budget in accounts.budgets(connection)}
    ledger.stopped = accounts.spending_stopped(connection)
    if name is not None and is_of_task(name):
        ledger.know(accounts.with_keys(connection, [AccountKey(name, "", EPOCH)]))
    else:
        ledger.know(accounts.since(connection, ledger.starts(now)))
    columns = [null().label(column.name) if column.name in _BULK else column for column in _tasks.c]
    reserving = select(*columns).where(schema.is_in_hand, _tasks.c.reserved_tokens.is_not(None))
    rows = connection.execute(reserving).mappings().all()
    if rows:
        llms = {row["name"]: llm_of(row) for row in connection.execute(select(_llms)).mappings()}
        for row in rows:
            ledger.resume(task_of(row, []), llms.get(row["llm"]) or LLM(row["llm"]))
    return ledger
