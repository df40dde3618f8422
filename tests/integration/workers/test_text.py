"""Text that UTF-8 cannot carry, and progress that fails: a worker ends every attempt, and its slot is free again."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection
from broker.messaging.chat_client import read_message, to_publish
from broker.protocol.chat import Message, new_message
from broker.protocol.primitives import MAX_BODY_BYTES
from broker.protocol.topology import SHARED, mailbox
from broker.protocol.worker_reports import Usage
from tests.support.fake_coordinator import WITHIN, StandIn, stand_in
from tests.support.openai_server import OpenAIServer, Paused, Stalled, Text
from workers.app import build_worker
from workers.chat import ChatResponder
from workers.execution.reporter import Reporter
from workers.models.base import Answer, Job, ModelError, TextCallback
from workers.models.factory import build_llm
from workers.models.protocols import LLM
from workers.tools.toolbox import Toolbox

GRIN = "\N{GRINNING FACE}"


class Scripted:
    """An LLM that does in each attempt what the test says; then it answers with the description."""

    model = "scripted"

    def __init__(self, *answers: Any) -> None:
        self.calls = 0
        self._answers = list(answers)

    async def run(self, job: Job, progress: TextCallback, tools: Toolbox | None = None) -> Answer:
        self.calls += 1
        if not self._answers:
            return Answer(job.description)
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]  # some tests return what is no Answer


@pytest.fixture
def name() -> str:
    return f"w{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def coordinator(amqp_url: str, name: str) -> AsyncIterator[StandIn]:
    async with stand_in(amqp_url, name) as it:
        yield it


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


class AtWork:
    """A worker with one slot, from `async with` on; `leave` drains it."""

    def __init__(self, url: str, name: str, llm: LLM, state: Path, **settings: Any) -> None:
        self.worker = build_worker(url=url, name=name, llm=llm, slots=1, spool_dir=state / "spool" / name, **settings)

    async def __aenter__(self) -> "AtWork":
        self._running = asyncio.create_task(self.worker.run())
        async with asyncio.timeout(WITHIN):
            await self.worker.ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])

    async def leave(self) -> None:
        """Drain it, as SIGTERM does, and wait until it has left."""
        self.worker.drain()
        async with asyncio.timeout(WITHIN):
            await asyncio.shield(self._running)


@pytest.fixture
def model_at_work(amqp_url: str, name: str, server: OpenAIServer, tmp_path: Path) -> AtWork:
    """A worker whose LLM is a model of the server."""
    llm = build_llm(model="openai:any", base_url=server.url, exec_command=None, handler=None)
    return AtWork(amqp_url, name, llm, tmp_path)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("Hello ", "bad \udc9d char", " end"), "Hello bad \ufffd char end"),
        (("Hello ", "\ud83d", "\ude00", " end"), f"Hello {GRIN} end"),
        (("Hello ", "end \ud83d"), "Hello end \ufffd"),
        (("\ud83d", "\ude00 end"), f"{GRIN} end"),
    ],
)
async def test_surrogates_in_streamed_text_are_joined_or_replaced_and_the_next_task_is_done(
    coordinator: StandIn,
    model_at_work: AtWork,
    server: OpenAIServer,
    pieces: tuple[str, ...],
    text: str,
) -> None:
    reply = Paused("Said: ", *pieces)
    server.script(reply, Text(*pieces), Text("good"))
    async with model_at_work:
        await coordinator.assign("streamed")
        await coordinator.assign("at-once")
        await coordinator.next("progress", task_id="streamed")
        reply.go_on.set()
        streamed = await coordinator.next("result", task_id="streamed")
        assert (streamed.outcome, streamed.result) == ("completed", f"Said: {text}")
        assert (await coordinator.next("result", task_id="at-once")).result == text
        await coordinator.assign("next")
        assert (await coordinator.next("result", task_id="next")).result == "good"
        shown = "".join(progress.text for progress in coordinator.all("progress", task_id="streamed"))
        assert shown == f"Said: {text}"
        await model_at_work.leave()
    assert len(server.requests) == 3


async def test_an_attempt_with_surrogates_can_be_stopped_and_keeps_its_timeout(
    coordinator: StandIn, model_at_work: AtWork, server: OpenAIServer
) -> None:
    server.script(Stalled("Hello \udc9d"), Stalled("Hello \udc9d"), Text("good"))
    async with model_at_work:
        await coordinator.assign("late", timeout=0.5)
        await coordinator.assign("stopped")
        late = await coordinator.next("result", task_id="late")
        assert (late.outcome, late.error.type) == ("failed", "timeout")
        await coordinator.next("progress", task_id="stopped")
        await coordinator.stop(model_at_work.worker.instance, "stopped")
        assert (await coordinator.next("result", task_id="stopped")).outcome == "cancelled"
        await coordinator.assign("next")
        assert (await coordinator.next("result", task_id="next")).result == "good"
        await model_at_work.leave()


async def test_progress_that_cannot_be_sent_does_not_keep_an_attempt_from_its_end(
    coordinator: StandIn,
    model_at_work: AtWork,
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = asyncio.Event()

    def fail(*_: object) -> None:
        tried.set()
        raise RuntimeError("no progress today")

    monkeypatch.setattr(Reporter, "progress", fail)
    reply = Paused("Hello ", "there")
    server.script(reply, Text("good"))
    async with model_at_work:
        await coordinator.assign("t-1")
        await coordinator.assign("t-2")
        async with asyncio.timeout(WITHIN):
            await tried.wait()
        reply.go_on.set()
        assert (await coordinator.next("result", task_id="t-1")).result == "Hello there"
        assert (await coordinator.next("result", task_id="t-2")).result == "good"
        await model_at_work.leave()
    assert caplog.text.count("progress cannot be sent") == 1


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def odd_model_error() -> ModelError:
    error = ModelError("odd \ud800", "half \udc00", retryable=True)
    error.retryable = "perhaps"  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("returned", "outcome", "told"),
    [
        (None, "failed", "AttributeError"),
        (Unprintable(), "failed", "Unprintable"),
        (odd_model_error(), "failed", "odd \ufffd"),
        (Answer("half \ud83d", Usage(input_tokens=7)), "completed", "half \ufffd"),
        (Answer("fine", usage={"tokens": 7}), "completed", "fine"),  # type: ignore[arg-type]
        (Answer({"\udc00": ["\ud83d\ude00"]}), "completed", {"\ufffd": [GRIN]}),
        (Answer(object()), "failed", "not_json"),
    ],
)
async def test_whatever_an_llm_returns_or_raises_ends_the_attempt_and_frees_the_slot(
    amqp_url: str, name: str, coordinator: StandIn, tmp_path: Path, returned: Any, outcome: str, told: Any
) -> None:
    async with AtWork(amqp_url, name, Scripted(returned), tmp_path) as at_work:
        await coordinator.assign("t-1")
        await coordinator.assign("t-2", "next")
        result = await coordinator.next("result", task_id="t-1")
        assert (await coordinator.next("result", task_id="t-2")).result == "next"
        await at_work.leave()
    assert result.outcome == outcome
    assert (result.result if outcome == "completed" else result.error.type) == told


async def test_an_llm_that_cannot_even_be_called_is_a_failed_attempt(
    amqp_url: str, name: str, coordinator: StandIn, tmp_path: Path
) -> None:
    class NoCoroutine(Scripted):
        def run(self, job: Job, progress: TextCallback, tools: Toolbox | None = None) -> Any:
            return "at once"

    async with AtWork(amqp_url, name, NoCoroutine(), tmp_path) as at_work:
        await coordinator.assign("t-1")
        await coordinator.assign("t-2")
        for task_id in ("t-1", "t-2"):
            assert (await coordinator.next("result", task_id=task_id)).error.type == "TypeError"
        await at_work.leave()


async def test_metrics_and_spans_that_fail_do_not_keep_an_attempt_from_its_end(
    amqp_url: str, name: str, coordinator: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        add = begin = Mock(side_effect=RuntimeError("nothing is counted today"))
        close = Mock()

    at_work = AtWork(amqp_url, name, Scripted(), tmp_path)
    monkeypatch.setattr(at_work.worker, "_tracing", Broken())
    monkeypatch.setattr(at_work.worker, "_runs", Broken())
    async with at_work:
        await coordinator.assign("t-1", "one")
        await coordinator.assign("t-2", "two")
        assert (await coordinator.next("result", task_id="t-1")).result == "one"
        assert (await coordinator.next("result", task_id="t-2")).result == "two"
        await at_work.leave()


async def test_the_log_tells_on_one_line_why_a_task_failed(
    amqp_url: str, name: str, coordinator: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    error = ModelError("provider_error", "the server\nsaid \x1b[31mno" + " and no" * 200, retryable=True)
    async with AtWork(amqp_url, name, Scripted(error), tmp_path):
        await coordinator.assign("t-1")
        await coordinator.next("result")
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("task failed")]
    assert line.startswith("task failed: provider_error: the server said \ufffd[31mno and no")
    assert len(line) < 350
    assert line.endswith("…")


# -- messages ------------------------------------------------------------------------------------------------------


class Writer:
    """Somebody who writes to an LLM and reads what comes back."""

    def __init__(self, link: RobustConnection, address: str, llm: str) -> None:
        self._link = link
        self._address = address
        self._llm = llm
        self._answers: asyncio.Queue[Message] = asyncio.Queue()

    def hear(self, delivery: Delivery) -> None:
        delivery.ack()
        self._answers.put_nowait(read_message(delivery, limit=MAX_BODY_BYTES))

    async def write(self, content: str) -> Message:
        message = new_message(self._address, f"llm.{self._llm}", content)
        await self._link.publish(to_publish(message))
        return message

    async def ask(self, content: str) -> Message:
        """Write, and wait for the answer."""
        question = await self.write(content)
        async with asyncio.timeout(WITHIN):
            answer = await self._answers.get()
        assert answer.in_reply_to == question.id
        return answer

    async def waiting(self) -> int | None:
        """How many messages wait in the mailbox of the LLM."""
        return await self._link.depth(f"llm.{self._llm}")


@pytest.fixture
async def writer(amqp_url: str, name: str) -> AsyncIterator[Writer]:
    address = f"user.{name}"
    async with RobustConnection(amqp_url, name="writer") as link:
        await link.declare(SHARED)
        await link.declare(mailbox(address, ()))
        writer = Writer(link, address, name)
        await link.consume(address, writer.hear)
        yield writer


async def test_a_message_is_answered_with_one_call_whatever_the_model_streams(
    coordinator: StandIn, writer: Writer, model_at_work: AtWork, server: OpenAIServer
) -> None:
    reply = Paused("Hello ", "bad \udc9d char, ", "\ud83d", "\ude00")
    server.script(reply, Text("good"))
    async with model_at_work:
        asking = asyncio.create_task(writer.ask("Well?"))
        await coordinator.next("message_progress")
        reply.go_on.set()
        text = f"Hello bad \ufffd char, {GRIN}"
        assert (await asking).content == text
        assert "".join(progress.text for progress in coordinator.all("message_progress")) == text
        assert (await writer.ask("And now?")).content == "good"
        await model_at_work.leave()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (None, "AttributeError"),
        (Answer(object()), "TypeError"),
        (Unprintable(), "Unprintable"),
        (asyncio.CancelledError(), "cancelled"),
        (odd_model_error(), "odd \ufffd"),
        (Answer("fine", usage={"tokens": 7}), "AttributeError"),  # type: ignore[arg-type]
    ],
)
async def test_a_message_that_cannot_be_answered_costs_one_call_and_its_sender_hears_why(
    amqp_url: str, name: str, coordinator: StandIn, writer: Writer, tmp_path: Path, returned: Any, kind: str
) -> None:
    llm = Scripted(returned)
    async with AtWork(amqp_url, name, llm, tmp_path) as at_work:
        answer = await writer.ask("Well?")
        assert answer.content.startswith("I cannot answer: ")
        assert answer.metadata == {"error": kind}
        assert (await writer.ask("And now?")).content == "And now?"
        await at_work.leave()
    assert llm.calls == 2
    assert await writer.waiting() == 0


async def test_an_answer_that_cannot_be_sent_is_logged_and_costs_one_call(
    amqp_url: str,
    name: str,
    coordinator: StandIn,
    writer: Writer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> Message:
        raise ValueError("no message can be made")

    llm = Scripted()
    async with AtWork(amqp_url, name, llm, tmp_path) as at_work:
        with monkeypatch.context() as broken:
            broken.setattr(ChatResponder, "_made", fail)
            await writer.write("Well?")
            async with asyncio.timeout(WITHIN):
                while "an answer cannot be sent" not in caplog.text:  # noqa: ASYNC110 - the log has no event
                    await asyncio.sleep(0.01)
        assert (await writer.ask("And now?")).content == "And now?"
        await at_work.leave()
    assert llm.calls == 2
    assert await writer.waiting() == 0
