"""Budgets for tests of the core: requests about them, LLMs that cost money, and what is reserved and spent."""

from typing import Any

from broker.protocol.spending import ManageBudget, ManageSpending
from broker.protocol.worker_reports import Price, Usage
from coordinator.core.budgets.account import Account
from coordinator.core.budgets.view import budget_list
from coordinator.core.commands import AnnounceBudget, AnswerRequest, Command, Refuse, SendAssignment
from coordinator.core.events import Heartbeat, ManageBudgetRequested, ManageSpendingRequested
from tests.support.core_driver import Core, moment
from tests.support.core_events import ANA, seen

PRICE = Price(input=2.0, output=8.0)  # a task of no text: 500 tokens in and 1000 out, $0.009
FREE = Price(input=0.0, output=0.0)
USUAL = 9_000_000  # nanodollars that are reserved at PRICE for a task without text, before anything is learned
USUAL_TOKENS = 1_501


def paid(llm: str = "atlas", *, slots: int = 5, **fields: Any) -> Heartbeat:
    """An LLM that costs money."""
    return seen(llm, slots=slots, price=PRICE, **fields)


def budget(name: str, **fields: Any) -> ManageBudgetRequested:
    """Ana sets, raises or drops a budget."""
    return ManageBudgetRequested(ManageBudget(budget=name, **fields), ANA)


def spending(*, stopped: bool, reason: str = "") -> ManageSpendingRequested:
    """Ana stops all spending, or allows it."""
    return ManageSpendingRequested(ManageSpending(stopped=stopped, reason=reason), ANA)


def cost(usd: float | None, tokens: int | None = None) -> Usage:
    """The usage of an attempt."""
    return Usage(cost_usd=usd, input_tokens=tokens)


def account(core: Core, name: str, value: str = "") -> Account:
    """The newest account of a budget as it is stored."""
    found = [a for a in core.database.ledger.values() if (a.key.name, a.key.value) == (name, value)]
    return max(found, key=lambda a: a.key.since)


def spent(core: Core, name: str, value: str = "") -> float:
    """What is stored as spent, in US dollars."""
    return account(core, name, value).spent_nanos / 10**9


def shown(core: Core, name: str | None = None) -> list[dict[str, Any]]:
    """The views of budgets, as the machine would answer."""
    views: list[dict[str, Any]] = budget_list(core.machine.state.budgets, name, moment(core.at))["budgets"]
    return views


def announced(commands: list[Command]) -> list[tuple[str, str]]:
    """The events about budgets: name and cause."""
    return [(command.name, command.why) for command in commands if isinstance(command, AnnounceBudget)]


def allowances(commands: list[Command]) -> dict[str, tuple[int | None, int | None]]:
    """What the assigned tasks may use: nanodollars and tokens."""
    return {c.task_id: (c.nanos, c.tokens) for c in commands if isinstance(c, SendAssignment)}


def refusals(commands: list[Command]) -> list[tuple[str, str]]:
    """The path and the message of each problem."""
    return [(it.path, it.message) for command in commands if isinstance(command, Refuse) for it in command.problems]


def accepted(commands: list[Command]) -> list[dict[str, Any]]:
    """The budgets in the answers to requests about budgets."""
    return [
        shown
        for command in commands
        if isinstance(command, AnswerRequest) and command.type == "budget.accepted"
        for shown in command.view["budgets"]
    ]
