"""A task for several LLMs without a machine around it: a test ends its parts and takes its steps."""

from typing import Any

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from coordinator.core.groups.steps import CreatePart, Fail, Finish, KeepWaiting, Step
from coordinator.core.groups.strategies import step
from coordinator.core.tasks.task import Task
from tests.support.core_driver import T0

VOTERS = ["ana", "bea", "cem"]


class Play:
    """A group whose parts end as the test says."""

    def __init__(self, **fields: Any) -> None:
        self.group = Submission(**{"description": "Name a rabbit", **fields})
        self.parts: list[Task] = []
        self.given_up: list[str] = []
        self.last: Step = KeepWaiting()

    def go_on(self, *, spent: float = 0.0, answer: str | None = None) -> Step:
        """Take a step; parts that it makes are there after that."""
        self.last = step(self.group, self.parts, spent=spent, answer=answer)
        if isinstance(self.last, CreatePart):
            if self.last.alone:
                self.given_up += [part.id for part in self.parts if not part.status.is_final]
                self.end_all(Status.CANCELLED)
            for spec in self.last.parts:
                number = len(self.parts) + 1
                part = Task(f"g.{number}", number, spec, Status.IN_PROGRESS, 4, T0)
                part.llm = spec.assignee or next(iter(spec.assignees), "anybody")
                self.parts.append(part)
        return self.last

    def end(self, number: int, result: Any = None, *, status: Status = Status.COMPLETED) -> None:
        part = self.parts[number - 1]
        part.status, part.result = status, result
        if status is Status.FAILED:
            part.error = Failure(type="broken", message=f"{part.llm} is tired")

    def end_all(self, status: Status) -> None:
        for number, part in enumerate(self.parts, 1):
            if not part.status.is_final:
                self.end(number, status=status)

    def fail(self, number: int) -> None:
        self.end(number, status=Status.FAILED)

    @property
    def result(self) -> Any:
        assert isinstance(self.last, Finish | Fail), self.last
        return self.last.result

    @property
    def error(self) -> tuple[str, str]:
        assert isinstance(self.last, Fail), self.last
        return self.last.error.type, self.last.error.message


def play(**fields: Any) -> Play:
    """A group that has made its first parts."""
    started = Play(**fields)
    assert isinstance(started.go_on(), CreatePart)
    return started
