"""The kinds of steps of a group, and what all strategies need to make its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from coordinator.core.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Finding:
    """The score of an LLM's work on a part, from 0 (useless) to 1 (as good as can be)."""

    part: Task
    score: float


@dataclass(frozen=True, slots=True)
class CreatePart:
    """Create these parts. With `alone`, parts that still run are cancelled."""

    parts: tuple[Submission, ...]
    note: str | None = None
    found: tuple[Finding, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """Wait until another part ends, or time has passed."""


@dataclass(frozen=True, slots=True)
class AskPerson:
    """A person has to decide."""

    question: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Complete the group; parts that still run are cancelled. `accepted` are the parts whose work is its result."""

    result: JsonValue
    accepted: tuple[Task, ...]
    note: str | None = None
    found: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    """Fail the group; the partial result is kept."""

    error: Failure
    result: JsonValue = None
    note: str | None = None
    found: tuple[Finding, ...] = ()


Step = CreatePart | KeepWaiting | AskPerson | Finish | Fail


AS_ASKED: dict[str, JsonValue] = {}


def part_of(
    group: Submission,
    *,
    assignee: str | None,
    assignees: Sequence[str] = (),
    description: str | None = None,
    after: Sequence[Task] = (),
    schema: dict[str, JsonValue] | None = AS_ASKED,
) -> Submission:
    """Return a part with the fields of the group, unless given, that gets the results of the parts in `after`.

    `schema` None: the answer has no schema.
    """
    return Submission(
        description=description or group.description,
        inputs=group.inputs,
        skills=group.skills,
        assignee=assignee,
        assignees=list(assignees),
        excluded=[] if assignee else group.excluded,
        mode="any" if assignees else None,
        depends_on=[*group.depends_on, *(part.id for part in after)],
        on_dependency_failure="run",
        timeout=group.timeout,
        max_attempts=group.max_attempts,
        output_schema=group.output_schema if schema is AS_ASKED else schema,
        labels=group.labels,
        metadata=group.metadata,
        conversation_id=group.conversation_id,
        force=group.force,
    )


def seats(group: Submission, parts: Sequence[Task]) -> list[tuple[str, Task]]:
    """Return the assignees, each with its part."""
    return list(zip(group.assignees, parts, strict=False))


def live(parts: Sequence[Task]) -> list[Task]:
    """Return the unfinished parts."""
    return [part for part in parts if not part.status.is_final]


def is_good(part: Task) -> bool:
    """Whether a part has a result."""
    return part.status is Status.COMPLETED


def name_of(part: Task) -> str:
    """Return the LLM of a part, or its assignee."""
    return part.llm or part.spec.assignee or "nobody"


def fields_of(value: JsonValue) -> dict[str, JsonValue]:
    """Return the fields of a JSON object; none for any other value."""
    return value if isinstance(value, dict) else {}


def with_failed(result: Mapping[str, JsonValue], failed: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return a result with the LLMs that failed, and why, if any did."""
    return {**result, **({"failed": {**failed}} if failed else {})}


def why_not(part: Task) -> str:
    """Return why a part has no result."""
    if part.error is not None:
        return part.error.message or part.error.type
    return "no answer yet" if not part.status.is_final else str(part.status)


def nobody(failed: Mapping[str, str]) -> Fail:
    """Return the failure of a group in which no LLM answered."""
    return Fail(failure("nobody_answered", f"nobody has answered; {listed(failed)}"))


def too_late(part: Task, result: JsonValue = None) -> Fail:
    """Return the failure of a group whose time is over while a part runs; `result` is the result so far."""
    return Fail(failure("timeout", f"the time was over before {name_of(part)} was done with {part.id}"), result)


def listed(failed: Mapping[str, str]) -> str:
    """Return the LLMs that failed, and why, as text."""
    return "; ".join(f"{llm}: {why}" for llm, why in failed.items())


def failure(kind: str, message: str) -> Failure:
    """Return the error of a group."""
    return Failure(type=kind, message=message, retryable=False)
