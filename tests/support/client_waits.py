"""Waits of tests that use the client."""

import asyncio
from collections.abc import Callable

from broker.protocol.status import Status
from fluffle.client.client import Client
from fluffle.client.events import Event

WITHIN = 30.0  # seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def until_status(client: Client, task_id: str, status: Status) -> None:
    async with asyncio.timeout(WITHIN), client.watch(task_id) as events:
        async for event in events:
            if isinstance(event, Event) and event.data.status is status:
                return
