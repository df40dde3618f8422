"""A fake coordinator that answers queries and commands with the views that a test gives it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pydantic import BaseModel

from broker.protocol.spending import BudgetList, BudgetsQuery, LimitList, LimitsQuery
from broker.protocol.topology import COORDINATOR, EVENTS, QUERIES
from broker.protocol.views import LLMList, LLMView, TaskPage, TaskView
from tests.support.amqp import amqp

Answer = BaseModel | str
"""A view, or why the request is refused."""

_COMMANDS = {"manage": "llm", "manage_limit": "limit", "manage_budget": "budget", "spending": "budget"}
_TIMER_SECONDS = 0.02


class AnsweringCoordinator:
    """Answers with `llms`, `tasks`, `limits` and `budgets`, and with `replies` by routing key before these.

    `received` are the commands: routing key and body. `events` can be published with `tell`.
    """

    def __init__(self, url: str) -> None:
        self.llms: list[LLMView] = []
        self.tasks: list[TaskView] = []
        self.limits = LimitList(limits=[])
        self.budgets = BudgetList(budgets=[])
        self.replies: dict[str, Callable[[Any], Answer]] = {}
        self.received: list[tuple[str, Any]] = []
        self._url = url
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        """Stop answering."""
        self._stop.set()
        self._thread.join(30)

    def tell(self, kind: str, name: str, **data: Any) -> None:
        """Publish an event about an LLM, a limit or a budget, such as `limit.closed`."""
        number = len(self.received)
        event = {
            "specversion": "1.0",
            "id": f"{kind}/{name}/{data.get('at', number)}",
            "source": "fluffle",
            "type": f"fluffle.{kind}",
            "subject": name,
            "time": "2026-12-01T09:00:00Z",
            "data": {"name": name, **data},
        }
        with amqp(self._url) as client:
            client.publish(EVENTS, f"{kind}.{name}", event)

    def commands(self, key: str) -> list[Any]:
        """Return the bodies of the commands with that routing key."""
        return [body for received, body in self.received if received == key]

    def _serve(self) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            for queue in (QUERIES, COORDINATOR):
                channel.queue_purge(queue)
                channel.basic_consume(queue, self._on_request, auto_ack=True)
            self._ready.set()
            while not self._stop.is_set():
                connection.process_data_events(time_limit=_TIMER_SECONDS)

    def _on_request(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        key, content = method.routing_key, json.loads(body or b"{}")
        is_command = method.exchange != "fluffle.queries"
        if is_command and method.exchange != "fluffle.tasks":
            return
        if is_command:
            self.received.append((key, content))
        answer = self._answer(key, content)
        if isinstance(answer, str):
            path, _, message = answer.partition(": ")
            kind = "task.rejected" if is_command else "query.rejected"
            reply = json.dumps({"errors": [{"path": path, "message": message}]}).encode()
        else:
            kind = f"{_COMMANDS.get(key, 'task')}.accepted" if is_command else "query.answer"
            reply = answer.model_dump_json(exclude_none=True).encode()
        given = pika.BasicProperties(correlation_id=properties.correlation_id, type=kind)
        channel.basic_publish("", properties.reply_to, reply, given)

    def _answer(self, key: str, content: Any) -> Answer:
        if key in self.replies:
            return self.replies[key](content)
        match key:
            case "llms":
                named = [llm for llm in self.llms if content.get("name") in (None, llm.name)]
                return LLMList(llms=named) if named or not content.get("name") else "name: there is no such LLM"
            case "tasks":
                wanted = content.get("status") or [task.status for task in self.tasks]
                return TaskPage(tasks=[task for task in self.tasks if task.status in wanted])
            case "task":
                return next((task for task in self.tasks if task.id == content["id"]), "id: there is no such task")
            case LimitsQuery.routing_key:
                name = content.get("name")
                return LimitList(limits=[view for view in self.limits.limits if name in (None, view.name)])
            case BudgetsQuery.routing_key | "manage_budget" | "spending":
                name = content.get("name")
                views = [view for view in self.budgets.budgets if name in (None, view.name)]
                return self.budgets.model_copy(update={"budgets": views})
            case "manage_limit":
                return next(view for view in self.limits.limits if view.name == content["limit"])
            case "manage":
                return next(view for view in self.llms if view.name == content["llm"])
        return f": no answer to {key}"


@contextmanager
def answering_coordinator(url: str) -> Iterator[AnsweringCoordinator]:
    """Run a fake coordinator that answers requests on a broker with the shared topology."""
    it = AnsweringCoordinator(url)
    it.start()
    try:
        yield it
    finally:
        it.stop()
