"""The values between a worker and its LLM: a Job goes in, an Answer or a ModelError comes out."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from broker.errors import FluffleError
from broker.protocol.assignments import Allowance, AnsweredQuestion, Dependency
from broker.protocol.chat import Message
from broker.protocol.portable_text import printed
from broker.protocol.worker_reports import Usage

__all__ = ["Answer", "AnsweredQuestion", "Dependency", "Job", "Message", "ModelError", "TextCallback", "Usage"]

MAX_MESSAGE = 2000  # characters of an error message

STALL_TIMEOUT_SECONDS = 120.0
"""Without a byte, after which the answer of a model is given up, by default."""

DISK_FULL = "disk_full"
"""The type of the failure when the machine of the worker has no space left."""

TextCallback = Callable[[str], None]
"""Receives the text of an answer piece by piece. Called on the event loop; it does not block."""

UsageCallback = Callable[[Usage], None]
"""Receives the usage of a job so far. Called on the event loop; it does not block."""


def ignore_usage(usage: Usage) -> None:
    """Ignore the usage so far."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of a task, or one message to answer, as the LLM receives it.

    Attributes:
        task_id: the ID of the task or of the message
        attempt: the number of the attempt, from 1
        description: what to do, in words
        inputs: any JSON that came with the task, or None
        context: the outcomes of the tasks that this task builds on
        instructions: how this LLM has to work, or None; the system prompt of a model
        output_schema: the JSON Schema that the result must satisfy, or None
        timeout: seconds that the attempt may take, or None; the worker enforces the limit
        metadata: JSON that the submitter attached
        skills: the skills that the task requires
        answers: the answers of people to questions of earlier attempts
        message: the message to answer, or None for a task; its content is the description
        conversation: the earlier messages of the conversation, oldest first, with those of this LLM
        budget: what the attempt may use, in US dollars and tokens, or None
        report_usage: receives what the attempt has used so far; that counts if the attempt is stopped
    """

    task_id: str
    attempt: int
    description: str
    inputs: Any = None
    context: tuple[Dependency, ...] = ()
    instructions: str | None = None
    output_schema: dict[str, Any] | None = None
    timeout: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    skills: tuple[str, ...] = ()
    answers: tuple[AnsweredQuestion, ...] = ()
    message: Message | None = None
    conversation: tuple[Message, ...] = ()
    budget: Allowance | None = None
    report_usage: UsageCallback = field(default=ignore_usage, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an attempt, any JSON value, with the tokens that it used, or None if they are unknown.

    `model` is the model that answered, if that is not the one of the LLM.
    """

    result: Any
    usage: Usage | None = None
    model: str | None = None


class ModelError(FluffleError):
    """The LLM could not do the task"""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retryable: bool,
        usage: Usage | None = None,
        retry_after: float | None = None,
        fault: Literal["task", "llm"] | None = None,
    ) -> None:
        """`kind` is a short name for programs. `retryable` is true when another attempt may succeed.

        `usage` holds the tokens that the failed attempt used, if known. `retry_after` are the seconds that a provider
        asks to wait. `fault` says whose failure it is, where the kind does not say it rightly: see FAULTS.
        """
        message = printed(message)
        self.type = printed(kind)
        self.message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        self.retryable = retryable
        self.usage = usage
        self.retry_after = retry_after
        self.fault = fault
        super().__init__(self.message)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the system refused to write, because the disk is full or the quota of the user is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
