"""Events for tests of the core, and the parts of its commands that tests compare."""

from collections.abc import Iterable
from typing import Any

from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import (
    Claim,
    Failure,
    Goodbye,
    Presence,
    Progress,
    Question,
    Result,
    ResumeReport,
    RunningTask,
    Usage,
    WaitReport,
)
from broker.timestamps import to_datetime
from coordinator.core.commands import (
    AnnounceLLM,
    AnnounceTask,
    AnswerSubmitter,
    Command,
    SendAssignment,
    SendPersonAnswer,
    SendStop,
)
from coordinator.core.events import (
    AnswerGiven,
    CancelRequested,
    Claimed,
    Heartbeat,
    InstanceLeft,
    Progressed,
    Reported,
    RetryRequested,
    Sender,
    Submitted,
    WaitBegan,
    WaitEnded,
)
from coordinator.core.tasks.task import DEFAULT_PRIORITY
from tests.support.core_driver import moment

ANA = Sender("ana", "replies-of-ana", "c-1")


def submitted(
    task_id: str,
    *,
    priority: int = DEFAULT_PRIORITY,
    due: float | None = None,
    not_before: float | None = None,
    sender: Sender = ANA,
    **fields: Any,
) -> Submitted:
    """Somebody submits a task. `due` and `not_before` in seconds after the start, `fields` as in a Submission."""
    spec = Submission(
        description=fields.pop("description", f"do {task_id}"),
        due=None if due is None else to_datetime(moment(due)),
        not_before=None if not_before is None else to_datetime(moment(not_before)),
        **fields,
    )
    return Submitted(task_id, spec, priority, sender)


def cancelled(task_id: str, *, reason: str | None = None, sender: Sender = ANA) -> CancelRequested:
    """Somebody cancels a task."""
    return CancelRequested(task_id, sender, reason)


def retried(task_id: str, *, sender: Sender = ANA) -> RetryRequested:
    """Somebody retries a task."""
    return RetryRequested(task_id, sender)


def seen(
    llm: str,
    instance: str = "i1",
    *,
    slots: int = 1,
    skills: Iterable[str] = (),
    tasks: Iterable[tuple[str, int]] = (),
    description: str = "",
    draining: bool = False,
    model: str = "",
    control: str | None = None,
    **properties: Any,
) -> Heartbeat:
    """An instance says hello or gives a beat. `tasks` are (task, attempt) that it has in hand."""
    hand = [RunningTask(task_id=task_id, attempt=attempt) for task_id, attempt in tasks]
    known = dict.fromkeys(skills, 1.0)
    return Heartbeat(
        Presence(
            name=llm,
            instance=instance,
            slots=slots,
            skills=known,
            tasks=hand,
            description=description,
            draining=draining,
            model=model,
            **properties,
        ),
        control,
    )


def left(llm: str, instance: str = "i1") -> InstanceLeft:
    """An instance says goodbye."""
    return InstanceLeft(Goodbye(name=llm, instance=instance))


def claimed(task_id: str, attempt: int = 1, *, llm: str = "atlas", instance: str = "i1") -> Claimed:
    """An instance claims an attempt."""
    return Claimed(llm, Claim(task_id=task_id, attempt=attempt, instance=instance))


def progressed(
    task_id: str,
    attempt: int = 1,
    *,
    llm: str = "atlas",
    instance: str = "i1",
    text: str | None = None,
    usage: Usage | None = None,
) -> Progressed:
    """An instance reports that it works, or sends `text`, or what it has used so far."""
    progress = Progress(task_id=task_id, attempt=attempt, instance=instance, note="working", text=text, usage=usage)
    return Progressed(llm, progress)


def waited(
    task_id: str,
    attempt: int = 1,
    *,
    llm: str = "atlas",
    instance: str = "i1",
    question: str | None = None,
    choices: Iterable[str] = (),
) -> WaitBegan:
    """An attempt waits; with `question`, the id of one, it asks a person."""
    asked = None if question is None else Question(id=question, text=f"{question}?", choices=list(choices))
    return WaitBegan(llm, WaitReport(task_id=task_id, attempt=attempt, instance=instance, question=asked))


def resumed(task_id: str, attempt: int = 1, *, llm: str = "atlas", instance: str = "i1") -> WaitEnded:
    """An attempt that waited goes on."""
    return WaitEnded(llm, ResumeReport(task_id=task_id, attempt=attempt, instance=instance))


def answered(task_id: str, answer: str = "yes", *, question: str | None = None, sender: Sender = ANA) -> AnswerGiven:
    """A person answers."""
    return AnswerGiven(task_id, answer, question, sender)


def completed(
    task_id: str,
    attempt: int = 1,
    *,
    llm: str = "atlas",
    instance: str = "i1",
    result: Any = "done",
    duration: float | None = 2.0,
    usage: Usage | None = None,
    model: str | None = None,
) -> Reported:
    """An instance has the answer."""
    return Reported(
        llm,
        Result(
            task_id=task_id,
            attempt=attempt,
            instance=instance,
            outcome="completed",
            result=result,
            duration=duration,
            usage=usage,
            model=model,
        ),
    )


def failed(
    task_id: str,
    attempt: int = 1,
    *,
    llm: str = "atlas",
    instance: str = "i1",
    retryable: bool = True,
    kind: str = "output_schema",
    retry_after: float | None = None,
    usage: Usage | None = None,
) -> Reported:
    """An attempt has failed; by the fault of the task, unless `kind` is another type."""
    error = Failure(type=kind, message="try later", retryable=retryable, retry_after=retry_after)
    ended: dict[str, Any] = {"outcome": "failed", "error": error, "usage": usage}
    return Reported(llm, Result(task_id=task_id, attempt=attempt, instance=instance, **ended))


def gave_up(
    task_id: str, attempt: int = 1, *, llm: str = "atlas", instance: str = "i1", usage: Usage | None = None
) -> Reported:
    """A worker has stopped an attempt, because it was told to or because it leaves."""
    return Reported(llm, Result(task_id=task_id, attempt=attempt, instance=instance, outcome="cancelled", usage=usage))


def assignments(commands: Iterable[Command]) -> list[tuple[str, int, str]]:
    """(task, attempt, LLM) of each assignment."""
    return [(c.task_id, c.attempt, c.llm) for c in commands if isinstance(c, SendAssignment)]


def stops(commands: Iterable[Command]) -> list[tuple[str, int, str]]:
    """(task, attempt, `llm/instance`) of each stop."""
    return [(c.task_id, c.attempt, f"{c.llm}/{c.instance}") for c in commands if isinstance(c, SendStop)]


def told(commands: Iterable[Command]) -> list[tuple[str, int, str, str]]:
    """(task, attempt, question, answer) of each answer of a person that an instance is told."""
    return [(c.task_id, c.attempt, c.question, c.answer) for c in commands if isinstance(c, SendPersonAnswer)]


def answers(commands: Iterable[Command]) -> list[tuple[str, str, str]]:
    """(task, type of the answer, where it goes) of each answer."""
    return [(c.view["id"], c.type, c.reply_to) for c in commands if isinstance(c, AnswerSubmitter)]


def events(commands: Iterable[Command]) -> list[tuple[str, str]]:
    """(task, status) of each event about a task, (LLM, state) of each about an LLM."""
    told: list[tuple[str, str]] = []
    for command in commands:
        match command:
            case AnnounceTask(_, view):
                told.append((view["id"], view["status"]))
            case AnnounceLLM(_, name, state):
                told.append((name, state))
    return told
