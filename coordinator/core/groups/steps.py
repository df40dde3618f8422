"""The parts that the work of several LLMs on one task is made of, and the steps that lead from one to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from coordinator.core.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about the work of an LLM on a part: 0 is useless, 1 is as good as can be."""

    part: Task
    score: float


@dataclass(frozen=True, slots=True)
class CreatePart:
    """Make these parts. Parts that still run are given up where `alone`."""

    parts: tuple[Submission, ...]
    note: str | None = None
    found: tuple[Finding, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class KeepWaiting:
    """Nothing can be done before another part ends, or time has passed."""


@dataclass(frozen=True, slots=True)
class AskPerson:
    """A person has to decide."""

    question: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The group is done; parts that still run are given up."""

    result: JsonValue
    note: str | None = None
    found: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Fail:
    """The group has failed; what there is of a result is kept."""

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
    """A part that has what the group has, where nothing else is said, and the results of the parts that it is `after`.

    `schema` None: it may answer as it likes.
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
    """The assignees, each with its part."""
    return list(zip(group.assignees, parts, strict=False))


def live(parts: Sequence[Task]) -> list[Task]:
    """Those that are not over."""
    return [part for part in parts if not part.status.is_final]


def is_good(part: Task) -> bool:
    """Whether it has a result."""
    return part.status is Status.COMPLETED


def name_of(part: Task) -> str:
    """Who did it, or is to do it."""
    return part.llm or part.spec.assignee or "nobody"


def fields_of(value: JsonValue) -> dict[str, JsonValue]:
    """The fields of an object; none of anything else."""
    return value if isinstance(value, dict) else {}


def with_failed(result: Mapping[str, JsonValue], failed: Mapping[str, str]) -> dict[str, JsonValue]:
    """A result that tells of whom there is nothing, and why; where there is somebody."""
    return {**result, **({"failed": {**failed}} if failed else {})}


def why_not(part: Task) -> str:
    """Why there is no result of a part."""
    if part.error is not None:
        return part.error.message or part.error.type
    return "no answer yet" if not part.status.is_final else str(part.status)


def nobody(failed: Mapping[str, str]) -> Fail:
    """Of nobody there is a result."""
    return Fail(failure("nobody_answered", f"nobody has answered; {listed(failed)}"))


def too_late(part: Task, result: JsonValue = None) -> Fail:
    """The time is over while a part is not; `result` is what there is so far."""
    return Fail(failure("timeout", f"the time was over before {name_of(part)} was done with {part.id}"), result)


def listed(failed: Mapping[str, str]) -> str:
    """Everybody of whom there is nothing, and why."""
    return "; ".join(f"{llm}: {why}" for llm, why in failed.items())


def failure(kind: str, message: str) -> Failure:
    """Why a group has failed."""
    return Failure(type=kind, message=message, retryable=False)
