"""What `fluffle up` asks of the coordinator: the limits and budgets of the file, and what it grants to LLMs."""

import asyncio
from collections.abc import Awaitable, Callable

from broker.errors import FluffleError, TaskRejected
from fluffle.client.client import Client
from fluffle.local.config import Configuration

Say = Callable[[str, str], None]

_RETRY_INTERVAL_SECONDS = 1.0  # while no coordinator answers, and between two looks for LLMs


async def send_configuration(url: str, configuration: Configuration, say: Say) -> None:
    """Set the limits and budgets of the file; grant `local` and `reserve` to each LLM when it has connected.

    Each request can be repeated without effect. While no coordinator answers, they are sent again. `say` receives the
    ones that the coordinator refuses.
    """
    grants = {name: changes for name, table in configuration.llms.items() if (changes := table.grant())}
    if not (configuration.limits or configuration.budgets or grants):
        return
    while True:
        try:
            async with Client(url, name="fluffle up (settings)") as client:
                await _send_limits_and_budgets(client, configuration, say)
                await _send_grants(client, grants, say)
            return
        except FluffleError:  # RabbitMQ is away
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)


async def _send_limits_and_budgets(client: Client, configuration: Configuration, say: Say) -> None:
    for name, limit in configuration.limits.items():
        figures = limit.model_dump()
        await _until_answered(lambda: client.manage_limit(name, **figures), f"limits.{name}", say)  # noqa: B023 - awaited
    for name, budget in configuration.budgets.items():
        rules = budget.model_dump()
        await _until_answered(lambda: client.manage_budget(name, **rules), f"budgets.{name}", say)  # noqa: B023 - awaited


async def _send_grants(client: Client, grants: dict[str, dict[str, object]], say: Say) -> None:
    left = dict(grants)
    while left:
        for name in await _connected(client) & left.keys():
            changes = left.pop(name)
            await _until_answered(lambda: client.manage(name, **changes), f"llm.{name}", say)  # type: ignore[arg-type]  # noqa: B023 - keys of LLMChanges; awaited
        if left:
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)


async def _connected(client: Client) -> set[str]:
    try:
        return {view.name for view in await client.llms() if view.instances}
    except FluffleError:
        return set()


async def _until_answered(request: Callable[[], Awaitable[object]], what: str, say: Say) -> None:
    """Send a request until the coordinator answers it."""
    while True:
        try:
            await request()
        except TaskRejected as refused:
            say("up", f"{what}: {refused}")
        except FluffleError:
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)
            continue
        return
