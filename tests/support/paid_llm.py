"""An LLM that costs money, written from docs/protocol.md: it reports its usage while it works, and keeps a ledger."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import llm_topology, work_queue
from tests.support.amqp import Amqp
from tests.support.site import Site

INSTANCE = "one"


@dataclass
class Run:
    """An attempt under way: what it has cost so far, in nanodollars, and in how many steps."""

    assignment: dict[str, Any]
    cost: int = 0
    steps: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """The attempt, as every report names it."""
        names = ("task_id", "attempt")
        return {**{name: self.assignment[name] for name in names}, "instance": INSTANCE}

    @property
    def usage(self) -> dict[str, Any]:
        """The usage so far."""
        return {"cost_usd": self.cost / 10**9, "input_tokens": self.steps * 1000}


@dataclass
class PaidLLM:
    """Does one step of every run at a time; a step costs `step` nanodollars. `ledger` is what the provider billed."""

    site: Site
    client: Amqp
    name: str
    price: dict[str, float]
    step: int
    slots: int = 5
    ledger: int = 0
    control: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    _seen: set[tuple[str, int]] = field(default_factory=set)

    def begin(self) -> None:
        """Connect, and offer the slots."""
        asyncio.run(_declare(self.site.url, self.name))
        self.site.queues |= {work_queue(self.name), f"llm.{self.name}"}
        self.control = self.client.queue()
        self.beat("hello")

    def beat(self, kind: str = "beat") -> None:
        """Say what is under way."""
        tasks = [{"task_id": run.about["task_id"], "attempt": run.about["attempt"]} for run in self.runs.values()]
        body = {"name": self.name, "instance": INSTANCE, "slots": self.slots, "price": self.price, "tasks": tasks}
        self._report(kind, body, reply_to=self.control)

    def take_work(self) -> list[dict[str, Any]]:
        """Claim what was assigned; return the assignments. One that comes twice is the same attempt."""
        arrived = [json.loads(message.body) for message in self.client.take_all(work_queue(self.name))]
        taken = []
        for assignment in arrived:
            if (attempt := (assignment["task_id"], assignment["attempt"])) in self._seen:
                continue
            self._seen.add(attempt)
            taken.append(assignment)
            run = self.runs[assignment["task_id"]] = Run(assignment)
            self._report("claim", run.about)
        return taken

    def obey(self) -> None:
        """Stop what the coordinator has ordered to stop."""
        for message in self.client.take_all(self.control):
            order = json.loads(message.body)
            run = self.runs.get(order["task_id"])
            if order["type"] == "stop" and run is not None and run.about["attempt"] == order["attempt"]:
                del self.runs[order["task_id"]]
                self.stopped.append(order["reason"])
                self._report("result", {**run.about, "outcome": "cancelled", "usage": run.usage})

    def work(self, *, until_steps: int) -> None:
        """Let every run take a step. A run with so many steps is finished."""
        for task_id, run in list(self.runs.items()):
            run.cost += self.step
            run.steps += 1
            self.ledger += self.step
            if run.steps >= until_steps:
                del self.runs[task_id]
                self._report("result", {**run.about, "outcome": "completed", "result": "done", "usage": run.usage})
            else:
                self._report("progress", {**run.about, "usage": run.usage})

    def _report(self, kind: str, body: dict[str, Any], **properties: Any) -> None:
        self.client.publish("fluffle.status", f"{self.name}.{kind}", body, **properties)


async def _declare(url: str, name: str) -> None:
    async with RobustConnection(url, name="test") as link:
        await link.declare(llm_topology(name))
