"""What can be said of tasks and LLMs as keyword arguments. None, where it is allowed, takes something away."""

from datetime import datetime
from typing import Any, Literal, TypedDict

from broker.protocol.task_requests import Vote


class TaskFields(TypedDict, total=False):
    """What can be said of a task besides its description: the fields of a `Submission`, but for `answers`, all of which
    a client needs.
    """

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


class TaskChanges(TypedDict, total=False):
    """What can be changed of a live task: the fields of an `Update`."""

    priority: int
    due: datetime | None
    labels: list[str]
    metadata: dict[str, Any]


class RetryChanges(TypedDict, total=False):
    """What can be different when a task is tried again: the fields of `task_requests.RetryPatch`."""

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


class Management(TypedDict, total=False):
    """What can be set of an LLM by hand: the fields of a `Manage`."""

    paused: bool
    drain: bool
    forget: bool
    slots: int | None
    skills: dict[str, float] | None


class ReportDefinition(TypedDict, total=False):
    """What can be said of a report: the fields of `queries.ReportFields`."""

    group_by: list[str]
    metrics: list[str]
    where: dict[str, list[str | int | bool | None]]
    moment: Literal["submitted", "finished"]
    sort: str
    limit: int


class ReportFields(ReportDefinition, total=False):
    """The same with the span that it is about."""

    since: datetime | None
    until: datetime | None
