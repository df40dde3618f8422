"""Requests of a client that is not written in Python, and reports of its LLM nora."""

from typing import Any

from pydantic import BaseModel

from tests.support.amqp import Amqp
from tests.support.processes import until

ANSWERS = "foreign.answers"
TASKS, STATUS, QUERIES = "fluffle.tasks", "fluffle.status", "fluffle.queries"
TASK: dict[str, Any] = {"description": "anything"}
DOABLE = TASK | {"assignee": "worker"}
NORA: dict[str, Any] = {"name": "nora", "instance": "n1", "slots": 1000}
COMPLETED: dict[str, Any] = {"outcome": "completed", "result": "done"}
FAILED: dict[str, Any] = {"outcome": "failed", "error": {"type": "request_rejected", "retryable": False}}
QUESTION: dict[str, Any] = {"id": "q", "text": "?"}


def submitted(client: Amqp, task: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """Submit a task and return it as it was accepted."""
    client.submit(task, **{"reply_to": ANSWERS, **properties})
    answer = client.take(ANSWERS)
    assert answer.type == "task.accepted", answer.body
    return answer.json()  # type: ignore[no-any-return]


def at_nora(client: Amqp, **fields: Any) -> dict[str, Any]:
    """Submit a task to nora and return the fields that identify it in her reports."""
    task = submitted(client, {**TASK, "assignee": "nora", "max_attempts": 1, **fields})
    until(lambda: stands(client, task["id"])["status"] == "assigned", "nora has it")
    return {"task_id": task["id"], "attempt": 1, "instance": "n1"}


def stands(client: Amqp, task_id: str) -> dict[str, Any]:
    """Return the view of a task."""
    asked = client.queue()
    client.publish(QUERIES, "task", {"id": task_id}, reply_to=asked)
    answer: dict[str, Any] = client.take(asked).json()
    client.delete(asked)
    return answer


def errors(client: Amqp, kind: str = "task.rejected") -> dict[str, str]:
    """Return the errors of the next answer by path; take the message off the rejected queue too."""
    answer = client.take(ANSWERS)
    assert answer.type == kind, answer.body
    client.take("fluffle.rejected")
    return {error["path"]: error["message"] for error in answer.json()["errors"]}


def optional(kind: type[BaseModel]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if not field.is_required()]


def is_online(client: Amqp, llm: str) -> bool:
    client.publish(QUERIES, "llms", {"name": llm}, reply_to=ANSWERS)
    answer = client.take(ANSWERS)
    return answer.type == "query.answer" and answer.json()["llms"][0]["state"] == "online"
