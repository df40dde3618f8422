"""What a worker and a way to be an LLM agree on: a Job goes in, an Answer comes out, or a ModelError."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from broker.errors import FluffleError
from broker.protocol.assignments import AnsweredQuestion, Dependency
from broker.protocol.chat import Message
from broker.protocol.portable_text import printed
from broker.protocol.worker_reports import Usage

if TYPE_CHECKING:
    from workers.tools.toolbox import Toolbox

__all__ = ["LLM", "Answer", "AnsweredQuestion", "Dependency", "Job", "Message", "ModelError", "Progress", "Usage"]

MAX_MESSAGE = 2000

Progress = Callable[[str], None]
"""Takes the text of an answer piece by piece, as it comes. Called on the event loop; does not block."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one task, or one message to answer, as an LLM gets it.

    description   what to do, in words
    inputs        any JSON that came with the task, or None
    context       the outcomes of the tasks that this one builds on
    instructions  how this LLM is to work, or None; for a model, the system prompt
    output_schema the JSON Schema that the result must satisfy, or None
    timeout       seconds that the attempt may take, or None; the worker enforces it
    metadata      whatever the submitter attached
    skills        the skills that the task asks for
    answers       what people have answered to questions of earlier attempts
    message       the message that is to be answered, if this is no task: the description is its content
    conversation  the messages before it in its conversation, oldest first, those of this LLM among them
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


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished attempt: `result` is any JSON value, `usage` is None where nothing is known of it."""

    result: Any
    usage: Usage | None = None


class ModelError(FluffleError):
    """The LLM could not do the task"""

    def __init__(self, kind: str, message: str, *, retryable: bool, usage: Usage | None = None) -> None:
        """`kind` becomes the type: a short name for machines. `retryable` tells whether another attempt may help.

        `usage` is what was used all the same, as far as known.
        """
        message = printed(message)
        self.type = printed(kind)
        self.message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        self.retryable = retryable
        self.usage = usage
        super().__init__(self.message)


class LLM(Protocol):
    """A way to be an LLM. One instance serves all slots of a worker at the same time."""

    @property
    def model(self) -> str:
        """The name shown in books and lists, such as `ollama:llama3.2`. Never holds a secret."""
        ...

    async def run(self, job: Job, progress: Progress, toolbox: "Toolbox | None" = None) -> Answer:
        """Do the job, with what the toolbox offers if there is one. Raises ModelError when it cannot be done.

        To stop it (a timeout, a `stop`), cancel it: run() ends what it started and raises CancelledError.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """An LLM that can tell before the first job whether it would answer."""

    async def trouble(self) -> str | None:
        """Why it would not answer now, with what to do; None if nothing is known to be wrong. Costs no tokens."""
        ...
