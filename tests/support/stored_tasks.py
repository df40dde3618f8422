"""Tasks for a store, and functions that store them."""

from datetime import datetime
from typing import Any

from broker.protocol.status import Outcome, Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure, ModelUsage, Usage
from broker.timestamps import Instant, Micros, seconds
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Attempt, Task
from coordinator.storage.store import Store
from tests.support.core_driver import T0

NOW = Instant(T0 + 1)
LEAD = seconds(5)

ATTEMPT = Attempt(
    attempt=1,
    llm="boreas",
    instance="b1",
    why="the only LLM online",
    outcome=Outcome.FAILED,
    error=Failure(type="overloaded", message="NUL \x00 and 日本", retryable=False),
    usage=Usage(
        input_tokens=10**12,
        output_tokens=0,
        cached_tokens=10**12 - 1,
        cache_write_tokens=0,
        reasoning_tokens=0,
        requests=10**6,
        cost_usd=0.1,
        models={
            'openai:gpt "日本"': ModelUsage(input_tokens=10**12, requests=0, cost_usd=0.1),
            "local": ModelUsage(output_tokens=0, requests=10**6),
        },
    ),
    assigned_at=Instant(T0 + 2),
    started_at=Instant(T0 + 3),
    finished_at=Instant(T0 + 4),
    duration=Micros(1_234_567),
)


def a_task(number: int, *, status: Status = Status.PENDING, **fields: Any) -> Task:
    """Return task `t<number>`. Fields of a Submission, except the id, go into its spec, all others into the task.

    `due` and `not_before` may be ISO 8601.
    """
    in_spec = {name: fields.pop(name) for name in list(fields) if name in Submission.model_fields and name != "id"}
    for name in ("due", "not_before"):
        if isinstance(in_spec.get(name), str):
            in_spec[name] = datetime.fromisoformat(in_spec[name])
    priority = in_spec.pop("priority", 4)
    spec = Submission(**{"description": f"do {number}", **in_spec})
    task = {"id": f"t{number}", "seq": number, "status": status, "priority": priority, "submitted_at": T0, **fields}
    return Task(spec=spec, **task)


def commit(
    store: Store, changes: StateChanges | None = None, *, outbox: str | None = None, **others: Any
) -> int | None:
    """Commit changes at NOW."""
    given = {"sent": [], "now": NOW, "lease": LEAD, **others}
    return store.commit(changes or StateChanges(), outbox=outbox, **given)


def stored(store: Store, *tasks: Task, waits: list[tuple[Task, frozenset[str]]] | None = None) -> None:
    """Store new tasks with their attempts."""
    attempts = [(task, attempt) for task in tasks for attempt in task.attempts]
    commit(store, StateChanges(new=list(tasks), attempts=attempts, waits=waits or []))
