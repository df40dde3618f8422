"""An LLM as a RabbitMQ user: requests and tasks in its name."""

from typing import Any

from tests.support.amqp import Amqp, Message

REFUSED = 403  # AMQP reply code: access refused
NOBODY = {"assignee": "nobody", "force": True}


def submitted(ana: Amqp, **task: Any) -> str:
    """Submit a task as ana and return its id once it is accepted."""
    answers = ana.queue()
    ana.submit({"description": "ana's secret", **task}, reply_to=answers, user_id="ana")
    accepted = ana.take(answers)
    assert accepted.type == "task.accepted", accepted.body
    return str(accepted.json()["id"])


class Llm:
    """A user with the rights of an LLM that sends requests to the coordinator."""

    def __init__(self, client: Amqp, name: str) -> None:
        self.client = client
        self.name = name
        self._answers = client.queue(name=f"llm.{name}.answers")

    def ask(self, verb: str, body: Any, **properties: Any) -> Message:
        """Send a request and return its answer."""
        self.client.publish(
            "fluffle.requests", f"{self.name}.{verb}", body, reply_to=self._answers, user_id=self.name, **properties
        )
        return self.client.take(self._answers)

    def refusal(self, verb: str, body: Any) -> dict[str, str]:
        """Send a request and return its errors by path."""
        answer = self.ask(verb, body)
        assert answer.type == "task.rejected", answer.body
        return {error["path"]: error["message"] for error in answer.json()["errors"]}
