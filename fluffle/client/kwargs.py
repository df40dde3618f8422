"""The keyword arguments of the client. None, where allowed, removes a value."""

from datetime import datetime
from typing import Any, Literal, TypedDict

from broker.protocol.primitives import Ability, Spill
from broker.protocol.spending import By, Per
from broker.protocol.task_requests import OnEmpty, TaskBudget, Vote


class TaskFields(TypedDict, total=False):
    """The fields of a new task: those of `Submission` except `description` and `answers`."""

    id: str
    inputs: Any
    skills: list[str]
    assignee: str
    assignees: list[str]
    excluded: list[str]
    mode: Literal["any", "all", "vote", "relay"]
    vote: Vote
    reviewer: str
    max_rounds: int
    priority: int
    due: datetime
    not_before: datetime
    depends_on: list[str]
    on_dependency_failure: Literal["fail", "run"]
    timeout: float
    max_attempts: int
    output_schema: dict[str, Any]
    labels: list[str]
    metadata: dict[str, Any]
    parent_id: str
    conversation_id: str
    force: bool
    needs: list[Ability]
    budget: TaskBudget


class TaskChanges(TypedDict, total=False):
    """The changes of a live task."""

    priority: int
    due: datetime | None
    labels: list[str]
    metadata: dict[str, Any]


class RetryChanges(TypedDict, total=False):
    """The changes of a finished task that runs again."""

    description: str
    inputs: Any
    skills: list[str]
    assignee: str | None
    priority: int
    due: datetime | None
    timeout: float | None
    max_attempts: int
    output_schema: dict[str, Any] | None
    labels: list[str]
    metadata: dict[str, Any]


class LLMChanges(TypedDict, total=False):
    """The changes of an LLM by hand."""

    paused: bool
    drain: bool
    forget: bool
    slots: int | None
    skills: dict[str, float] | None
    local: bool | None
    reserve: bool | None
    spill: Spill | None
    spill_after: float | None
    context_window: int | None
    abilities: list[Ability] | None


class LimitChanges(TypedDict, total=False):
    """The changes of a rate limit by hand."""

    paused: bool
    until: datetime
    requests_per_minute: float | None
    tokens_per_minute: float | None
    concurrent: int | None
    forget: bool


class BudgetChanges(TypedDict, total=False):
    """The changes of a budget by hand."""

    usd: float | None
    tokens: int | None
    runs: int | None
    per: Per | None
    by: By | None
    on_empty: OnEmpty | None
    value: str
    raise_usd: float
    raise_tokens: int
    raise_runs: int
    drop: bool


class ReportDefinition(TypedDict, total=False):
    """The definition of a report that can be saved."""

    group_by: list[str]
    metrics: list[str]
    where: dict[str, list[str | int | bool | None]]
    moment: Literal["submitted", "finished"]
    sort: str
    limit: int


class ReportFields(ReportDefinition, total=False):
    """The definition of a report, with its period."""

    since: datetime | None
    until: datetime | None
