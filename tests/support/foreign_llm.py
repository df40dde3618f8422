"""LLMs with a foreign worker, written from docs/protocol.md alone, without any limits but RabbitMQ's."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import llm_topology, work_queue
from tests.support.amqp import Amqp
from tests.support.site import Site

Report = dict[str, Any]


class ForeignLLMs:
    """LLMs simulated by one plain AMQP client. They do their tasks when `work` is called."""

    def __init__(self, site: Site, client: Amqp, *names: str) -> None:
        self._client = client
        self._names = names
        asyncio.run(_declare(site.url, names))
        for name in names:
            site.queues |= {work_queue(name), f"llm.{name}"}
            client.publish("fluffle.status", f"{name}.hello", {"name": name, "instance": "one", "slots": 100})

    def work(self, count: int, report: Callable[[dict[str, Any]], Report]) -> None:
        """Take this many assignments, claim each and report on it; `report` returns the fields of a result."""
        for number in range(count):
            name = self._names[number % len(self._names)]
            assignment = json.loads(self._client.take(work_queue(name)).body)
            about = {"task_id": assignment["task_id"], "attempt": assignment["attempt"], "instance": "one"}
            self._client.publish("fluffle.status", f"{name}.claim", about)
            self._client.publish("fluffle.status", f"{name}.result", {**about, **report(assignment)})


async def _declare(url: str, names: tuple[str, ...]) -> None:
    async with RobustConnection(url, name="test") as link:
        for name in names:
            await link.declare(llm_topology(name))
