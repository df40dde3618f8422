"""The part of the client for rate limits and budgets."""

from typing import Unpack

from broker.errors import QueryRejected, TaskRejected
from broker.protocol.spending import (
    BudgetList,
    BudgetsQuery,
    LimitList,
    LimitsQuery,
    LimitView,
    ManageBudget,
    ManageLimit,
    ManageSpending,
)
from fluffle.client.connection import ConnectedClient
from fluffle.client.kwargs import BudgetChanges, LimitChanges
from fluffle.client.requests import made, read


class SpendingMethods(ConnectedClient):
    """The methods of `Client` for rate limits and budgets."""

    async def limits(self, name: str | None = None) -> list[LimitView]:
        """Return all rate limits by name, or the one with this name. Raises QueryRejected and NoAnswer."""
        query = made(LimitsQuery, QueryRejected, name=name)
        return read(LimitList, await self._request_client.ask(query)).limits

    async def manage_limit(self, limit: str, **changes: Unpack[LimitChanges]) -> LimitView:
        """Pause, resume or forget a rate limit, or set its figures. Other settings keep their values.

            await client.manage_limit("openai-main", requests_per_minute=500, concurrent=8)
            await client.manage_limit("openai-main", paused=True, until=tomorrow)

        `paused`: no LLM of the limit gets tasks, until the moment `until` if given; false opens the limit, whatever
        closed it. None removes a figure. `forget` removes a limit that no LLM uses. Raises TaskRejected and NoAnswer.
        """
        command = made(ManageLimit, TaskRejected, limit=limit, **changes)
        return read(LimitView, await self._request_client.command(command))

    async def budgets(self, name: str | None = None) -> BudgetList:
        """Return all budgets by name, or those with this name; also whether all spending is stopped.

        The budget of a task has the name `task:<ID>`, and is only returned by name. Raises QueryRejected and NoAnswer.
        """
        query = made(BudgetsQuery, QueryRejected, name=name)
        return read(BudgetList, await self._request_client.ask(query))

    async def manage_budget(self, budget: str, **changes: Unpack[BudgetChanges]) -> BudgetList:
        """Set, raise or drop a budget. Other settings keep their values; None removes a figure.

            await client.manage_budget("team", usd=20, per="day", on_empty="wait")
            await client.manage_budget("team", raise_usd=5)

        A new budget needs at least one of `usd`, `tokens` and `runs`; its default period is a month. `raise_usd`,
        `raise_tokens` and `raise_runs` add to the present period only; with `by`, `value` says for which submitter,
        label, LLM or limit. The budget of a task, `task:<ID>`, can only be raised. Raises TaskRejected and NoAnswer.
        """
        command = made(ManageBudget, TaskRejected, budget=budget, **changes)
        return read(BudgetList, await self._request_client.command(command))

    async def stop_spending(self, reason: str = "") -> BudgetList:
        """Stop all spending at once: runs of LLMs that cost money, or may, are stopped, and no new ones begin.

        Raises TaskRejected and NoAnswer.
        """
        return await self._manage_spending(stopped=True, reason=reason)

    async def allow_spending(self) -> BudgetList:
        """Allow spending again after `stop_spending`. Raises TaskRejected and NoAnswer."""
        return await self._manage_spending(stopped=False)

    async def _manage_spending(self, *, stopped: bool, reason: str = "") -> BudgetList:
        command = made(ManageSpending, TaskRejected, stopped=stopped, reason=reason)
        return read(BudgetList, await self._request_client.command(command))
