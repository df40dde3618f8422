"""A model served by llama.cpp: the real server's streams, tool calls, limits and errors."""

import asyncio
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.llama import SENTENCE, LlamaServer
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Answer, Job, ModelError
from workers.models.factory import build_llm
from workers.models.protocols import LLM
from workers.tools.toolbox import Toolbox

pytestmark = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")

COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def llm_at(server: LlamaServer) -> LLM:
    return build_llm(model="openai:tiny", base_url=server.url, exec_command=None, handler=None)


async def run(llm: LLM, description: str = "What is a fluffle?", tools: Toolbox | None = None, **job: Any) -> Answer:
    return await llm.run(Job("t-1", 2, description, **job), lambda text: None, tools)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """A server with room for 1024 tokens whose model, offered tools, calls the one that takes an answer."""
    folder = tmp_path_factory.mktemp("llama")
    with LlamaServer(folder, call=("final_result", {"n": 3}), context=1024) as server:
        yield server


async def test_a_text_streams_in_and_its_tokens_are_counted(server: LlamaServer) -> None:
    pieces: list[str] = []
    answer = await llm_at(server).run(Job("t-1", 1, "What is a fluffle?"), pieces.append)
    assert answer.result == "".join(SENTENCE) == "".join(pieces)
    assert len(pieces) > 1
    assert answer.usage is not None
    assert answer.usage.input_tokens
    assert answer.usage.output_tokens in (len(SENTENCE), len(SENTENCE) + 1)  # with or without that of its end


async def test_an_answer_that_has_to_satisfy_a_schema_comes_as_a_tool_call(server: LlamaServer) -> None:
    assert (await run(llm_at(server), output_schema=COUNT)).result == {"n": 3}


async def test_a_model_uses_a_tool_and_goes_on_with_what_it_gives(tmp_path: Path) -> None:
    with LlamaServer(tmp_path, call=("ask_person", {"question": "Which colour?"})) as server:
        answer = await run(llm_at(server), tools=toolbox("ask_person"))
    assert answer.result == "".join(SENTENCE)


async def test_a_prompt_that_is_longer_than_the_context_is_too_long(server: LlamaServer) -> None:
    with pytest.raises(ModelError, match="context") as caught:
        await run(llm_at(server), "rabbits " * 1000)
    assert (caught.value.type, caught.value.retryable) == ("context_too_long", False)


async def test_an_answer_that_the_context_has_no_room_for_is_truncated(server: LlamaServer) -> None:
    with pytest.raises(ModelError) as caught:
        await run(llm_at(server), "LONG")
    assert (caught.value.type, caught.value.retryable) == ("output_truncated", False)


async def test_a_server_that_is_loading_its_model_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workers")
    server = LlamaServer(tmp_path, weight=40_000, ready=False)
    llm = llm_at(server)
    with server:
        assert (await run(llm)).result == "".join(SENTENCE)
    assert "the server is loading its model" in caplog.text


async def test_a_server_without_tools_is_asked_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LlamaServer(tmp_path, says=('{"n"', ": 3}"), tools=False) as server:
        llm = llm_at(server)
        assert (await run(llm, output_schema=COUNT)).result == {"n": 3}
        assert "openai:tiny cannot call tools" in caplog.text
        assert (await run(llm, tools=toolbox("ask_person"))).result == '{"n": 3}'
        assert caplog.text.count("cannot call tools") == 1, "it is remembered"


async def test_a_server_that_is_ready_gives_no_warning(server: LlamaServer) -> None:
    llm: Any = llm_at(server)
    assert await llm.trouble() is None


@pytest.mark.parametrize(
    ("model", "url", "key"),
    [
        ("openai:tiny", "OPENAI_BASE_URL", "OPENAI_API_KEY"),  # by the Responses API
        ("anthropic:tiny", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
    ],
)
async def test_the_other_protocols_stream_and_call_tools_too(
    server: LlamaServer, model: str, url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(url, server.url.removesuffix("/v1") if model.startswith("anthropic") else server.url)
    monkeypatch.setenv(key, "sk-test")
    llm = build_llm(model=model, base_url=None, exec_command=None, handler=None)
    answer = await run(llm)
    assert answer.result == "".join(SENTENCE)
    assert answer.usage is not None
    assert answer.usage.output_tokens
    assert (await run(llm, output_schema=COUNT)).result == {"n": 3}
    with pytest.raises(ModelError) as caught:
        await run(llm, "rabbits " * 1000)
    assert caught.value.type == "context_too_long"


async def test_an_answer_that_is_cancelled_in_the_middle_frees_the_slot_of_the_server(tmp_path: Path) -> None:
    with LlamaServer(tmp_path, context=4096) as server:
        llm = llm_at(server)
        begun = asyncio.Event()
        call = asyncio.create_task(llm.run(Job("t-1", 1, "LONG"), lambda text: begun.set()))
        await asyncio.wait_for(begun.wait(), 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = await asyncio.wait_for(run(llm), 60)
    assert after.result == "".join(SENTENCE)


async def test_more_requests_than_the_slots_of_the_server_are_all_answered(server: LlamaServer) -> None:
    llm = llm_at(server)
    answers = await asyncio.gather(*(run(llm) for _ in range(12)))
    assert [answer.result for answer in answers] == ["".join(SENTENCE)] * 12
