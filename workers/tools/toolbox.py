"""The tools of an LLM while it works: send, ask, delegate, ask_person, share, read."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from broker.errors import BrokerError, FluffleError, RequestError
from broker.mappings import without_none
from broker.messaging.chat_client import ChatClient
from broker.protocol.assignments import Assignment
from broker.protocol.chat import Message, is_address, made_from, new_message
from broker.protocol.portable_text import portable
from broker.protocol.primitives import LOCAL_ONLY, problems
from broker.protocol.status import Status
from broker.protocol.task_requests import ReadNote, ShareNote, Submission, Tool, board_of
from broker.protocol.topology import llm_address
from broker.protocol.views import LLMView, TaskView
from workers.execution.suspensions import Suspensions
from workers.models.base import ModelError
from workers.models.output import as_json
from workers.tools.coordinator_client import CoordinatorClient

ANSWER_WITHIN = 300.0  # seconds

T = TypeVar("T")


class ToolError(FluffleError):
    """The tool could not do what was asked"""


@dataclass(frozen=True, slots=True)
class ToolServices:
    """The clients that all attempts of a worker share. `tools` names the tools that its LLM may use."""

    name: str
    tools: frozenset[Tool]
    coordinator_client: CoordinatorClient
    chat_client: ChatClient

    @property
    def address(self) -> str:
        """The address of the LLM."""
        return llm_address(self.name)


class Toolbox:
    """The tools of one attempt. A tool that fails raises ToolError with a reason on which the LLM can act."""

    def __init__(
        self,
        services: ToolServices,
        assignment: Assignment,
        suspensions: Suspensions,
        *,
        priority: int | None,
        trace: str | None = None,
    ) -> None:
        """`priority` is that of the task, `trace` the traceparent for delegated tasks."""
        self._services = services
        self._assignment = assignment
        self._suspensions = suspensions
        self._priority = priority
        self._trace = trace
        self._board = board_of(assignment.task_id, assignment.conversation_id)
        self._answers = list(assignment.answers)
        self._occurrences: Counter[str] = Counter()  # how often each message and request occurred

    @property
    def tools(self) -> frozenset[Tool]:
        """The names of the tools that this LLM may use."""
        return self._services.tools

    @contextmanager
    def blocking(self) -> "Iterator[SyncToolbox]":
        """Yield the same tools for other threads. A call that still waits when the block ends raises ToolError."""
        toolbox = SyncToolbox(self)
        try:
            yield toolbox
        finally:
            toolbox._cancel_calls()

    async def send(self, to: str, text: str) -> None:
        """Send a message, without waiting for an answer.

        Args:
            to: Who gets it: the name of an LLM, or an address such as user.ana, group.reviewers or all.
            text: What to say.
        """
        self._must_be_allowed("send")
        with _reasons():
            await self._services.chat_client.send(self._letter(_portable(to), _portable(text)))

    async def ask(self, to: str, question: str, timeout: float = ANSWER_WITHIN) -> str:
        """Ask another LLM, or a person by name, and wait for the answer.

        For a task of its own, use delegate.

        Args:
            to: Who is asked: the name of an LLM, or an address such as user.ana.
            question: The question, with all that is needed to answer it.
            timeout: Seconds to wait for the answer.
        """
        self._must_be_allowed("ask")
        with _reasons():
            address = _address(_portable(to))
            message = new_message(self._services.address, address, _portable(question), conversation_id=self._board)
            async with self._suspensions.parked():
                return (await self._services.chat_client.ask(message, timeout)).content

    async def delegate(
        self,
        description: str,
        *,
        skills: Sequence[str] = (),
        assignee: str | None = None,
        inputs: Any = None,
        output_schema: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Give a part of your task to another LLM and wait for its result.

        The other one sees nothing of your task but what you tell it here.

        Args:
            description: What is to be done, in words, with all that is needed to do it.
            skills: Skills that the other LLM must have.
            assignee: The name of the LLM that is to do it. Without it the best one that has the skills does it.
            inputs: Material to work on, such as a text.
            output_schema: A JSON Schema that the result must satisfy.
            timeout: Seconds that one attempt may take.
        """
        self._must_be_allowed("delegate")
        given = {
            "description": description,
            "skills": list(skills),
            "assignee": assignee,
            "inputs": inputs,
            "output_schema": output_schema,
            "timeout": timeout,
        }
        with _reasons():
            task = self._child(as_json(given))
            await self._must_be_possible(task)
            async with self._suspensions.parked():
                view = await self._services.coordinator_client.delegate(task, trace=self._trace)
        return _result(view)

    async def ask_person(self, question: str, choices: Sequence[str] = ()) -> str:
        """Ask a person and wait for the answer, which may take long. Ask only what nobody but a person can tell.

        Args:
            question: The question, with all that is needed to answer it.
            choices: The possible answers, if there are only some.
        """
        self._must_be_allowed("ask_person")
        question = _portable(question)
        if not question.strip():
            raise ToolError("the question is empty")
        for earlier in self._answers:
            if earlier.question == question:
                self._answers.remove(earlier)
                return earlier.answer
        with _reasons():
            return await self._suspensions.ask(question, [_portable(choice) for choice in choices])

    async def share(self, name: str, content: str) -> None:
        """Put a note on the board of this task and of all that work on it, in place of the one of that name.

        Args:
            name: The name of the note, on one line.
            content: What it says.
        """
        self._must_be_allowed("share")
        with _reasons():
            name, content = _portable(name), _portable(content)
            note = ShareNote(board=self._board, name=name, content=content, by=self._services.address)
            await self._services.coordinator_client.share(note)

    async def read(self, name: str) -> str:
        """Read a note from the board of this task.

        Args:
            name: The name of the note. If there is none of that name, you are told which there are.
        """
        self._must_be_allowed("read")
        with _reasons():
            [note] = await self._services.coordinator_client.read(ReadNote(board=self._board, name=_portable(name)))
        return note.content or ""

    def _must_be_allowed(self, tool: Tool) -> None:
        if tool not in self.tools:
            raise ToolError(f"{self._services.name} may not use {tool}")

    def _letter(self, to: str, text: str) -> Message:
        """Return the message. Its id is derived from its text, so that a repetition by another attempt is read once."""
        address = _address(to)
        number = self._times_before(f"{address} {text}")
        message_id = made_from(self._assignment.task_id, address, text, str(number))
        return new_message(self._services.address, address, text, id=message_id, conversation_id=self._board)

    def _times_before(self, said: str) -> int:
        """Return how often this text occurred before in this attempt."""
        self._occurrences[said] += 1
        return self._occurrences[said] - 1

    def _child(self, given: dict[str, Any]) -> Submission:
        """Return the delegated task. Its id is derived from the request, so that another attempt finds it again."""
        it = self._assignment
        request = hashlib.sha256(to_json((it.task_id, given))).hexdigest()[:12]
        if number := self._times_before(request):
            request = f"{request}.{number + 1}"
        return Submission(
            **without_none(given),
            id=f"{it.task_id[: 63 - len(request)]}.{request}",
            priority=self._priority,
            labels=[LOCAL_ONLY] if LOCAL_ONLY in it.labels else [],
            parent_id=it.task_id,
            conversation_id=self._board,
        )

    async def _must_be_possible(self, task: Submission) -> None:
        """Raise ToolError for an LLM or a skill that does not exist: the task would wait without end."""
        if not task.skills and not task.assignee:
            return
        known = await self._services.coordinator_client.llms()
        if known is None:
            return
        if task.assignee and task.assignee not in {llm.name for llm in known}:
            raise ToolError(f"there is no LLM named {task.assignee}; there are: {_introduced(known)}")
        if not task.assignee and not any(llm.skills.keys() >= set(task.skills) for llm in known):
            raise ToolError(f"no LLM has the skills {', '.join(task.skills)}; there are: {_introduced(known)}")


class SyncToolbox:
    """A `Toolbox` for functions that are not async: the same methods, each of which waits for its end."""

    def __init__(self, toolbox: Toolbox) -> None:
        """Create it on the event loop of the toolbox; call its methods in other threads."""
        self._toolbox = toolbox
        self._loop = asyncio.get_running_loop()
        self._calls: set[Future[Any]] = set()

    @property
    def tools(self) -> frozenset[Tool]:
        """The names of the tools that this LLM may use."""
        return self._toolbox.tools

    def send(self, to: str, text: str) -> None:
        """`Toolbox.send`."""
        self._wait(self._toolbox.send(to, text))

    def ask(self, to: str, question: str, timeout: float = ANSWER_WITHIN) -> str:
        """`Toolbox.ask`."""
        return self._wait(self._toolbox.ask(to, question, timeout))

    def delegate(
        self,
        description: str,
        *,
        skills: Sequence[str] = (),
        assignee: str | None = None,
        inputs: Any = None,
        output_schema: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """`Toolbox.delegate`."""
        call = self._toolbox.delegate(
            description,
            skills=skills,
            assignee=assignee,
            inputs=inputs,
            output_schema=output_schema,
            timeout=timeout,
        )
        return self._wait(call)

    def ask_person(self, question: str, choices: Sequence[str] = ()) -> str:
        """`Toolbox.ask_person`."""
        return self._wait(self._toolbox.ask_person(question, choices))

    def share(self, name: str, content: str) -> None:
        """`Toolbox.share`."""
        self._wait(self._toolbox.share(name, content))

    def read(self, name: str) -> str:
        """`Toolbox.read`."""
        return self._wait(self._toolbox.read(name))

    def _cancel_calls(self) -> None:
        """Raise ToolError in the threads that still wait, because the attempt is over."""
        for call in list(self._calls):
            call.cancel()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._calls.add(future)
        try:
            return future.result()
        except CancelledError as error:
            raise ToolError("the attempt is over") from error
        finally:
            self._calls.discard(future)


@contextmanager
def _reasons() -> Iterator[None]:
    """Convert every expected error to a ToolError with its text."""
    try:
        yield
    except ValidationError as error:
        raise ToolError("; ".join(map(str, problems(error)))) from error
    except ModelError as error:  # of as_json
        raise ToolError(f"the arguments must be JSON: {error}") from error
    except (RequestError, BrokerError, TimeoutError) as error:
        raise ToolError(str(error)) from error


def _portable(text: str) -> str:
    """Return a text that is valid in UTF-8. A value of another type is left to validation."""
    return portable(text) if isinstance(text, str) else text


def _address(to: str) -> str:
    return to if is_address(to) else llm_address(to)


def _result(view: TaskView) -> Any:
    if view.status is Status.COMPLETED:
        return view.result
    if view.error is not None:
        raise ToolError(f"task {view.id} failed: {view.error.type}: {view.error.message}")
    raise ToolError(f"task {view.id} was {view.status}")


def _introduced(llms: Sequence[LLMView]) -> str:
    return "; ".join(map(_introduction, llms)) or "none"


def _introduction(llm: LLMView) -> str:
    state = [] if llm.state == "online" else [llm.state]
    return f"{llm.name} ({', '.join([*(llm.skills or ['no skills']), *state])})"
