"""What an LLM hands to its tools is made such that UTF-8 can carry it, or refused with a reason."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from broker.protocol.assignments import Assignment
from broker.protocol.chat import Message
from broker.protocol.status import Status
from broker.protocol.task_requests import TOOLS, ReadNote, ShareNote, Submission
from broker.protocol.views import NoteView, TaskView
from broker.timestamps import EPOCH
from workers.tools.toolbox import Toolbox, ToolError, ToolServices

HALF, MENDED = "half \ud83d", "half \ufffd"
PAIR, JOINED = "\ud83d\ude00", "\N{GRINNING FACE}"


class Recorder:
    """Errands, mailer and parking of an attempt, which keep what they are given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    async def delegate(self, task: Submission, *, trace: str | None = None) -> TaskView:
        self.given.append(task)
        return TaskView(
            id="t-2", description="x", priority=4, submitted_at=EPOCH, status=Status.COMPLETED, result="done"
        )

    async def share(self, note: ShareNote) -> None:
        self.given.append(note)

    async def read(self, note: ReadNote) -> list[NoteView]:
        self.given.append(note)
        assert note.name is not None
        return [NoteView(name=note.name, content="noted", by="ada", at=EPOCH)]

    async def send(self, message: Message) -> None:
        self.given.append(message)

    @asynccontextmanager
    async def parked(self) -> AsyncIterator[None]:
        yield

    async def ask(self, what: Any, how: float | Sequence[str]) -> Any:
        self.given.append((what, how))
        return what


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def toolbox(recorder: Recorder) -> Toolbox:
    it = cast(Any, recorder)
    services = ToolServices("ada", frozenset(TOOLS), it, it)
    return Toolbox(services, Assignment(task_id="t-1", attempt=1, description="x"), it, priority=None)


async def test_surrogates_in_the_arguments_of_tools_are_joined_or_replaced(
    toolbox: Toolbox, recorder: Recorder
) -> None:
    await toolbox.delegate(HALF, inputs={HALF: [PAIR]})
    await toolbox.send("bea", HALF)
    await toolbox.ask("bea", PAIR)
    await toolbox.ask_person(HALF, [PAIR])
    await toolbox.share(HALF, PAIR)
    await toolbox.read(HALF)
    task, sent, (asked, _), (question, choices), shared, read = recorder.given
    assert (task.description, task.inputs) == (MENDED, {MENDED: [JOINED]})
    assert (sent.content, asked.content) == (MENDED, JOINED)
    assert (question, choices) == (MENDED, [JOINED])
    assert (shared.name, shared.content, read.name) == (MENDED, JOINED, MENDED)
    for given in (task, sent, asked, shared, read):
        given.encode()


async def test_arguments_that_are_not_json_are_an_error_for_the_llm(toolbox: Toolbox) -> None:
    with pytest.raises(ToolError, match="the arguments must be JSON"):
        await toolbox.delegate("x", inputs=object())
    with pytest.raises(ToolError, match="content: "):
        await toolbox.share("name", cast(str, 5))
