"""A pydantic-ai model over HTTP, against a server that speaks OpenAI's wire format."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.openai_server import (
    Dropped,
    OpenAIServer,
    Refusal,
    Reply,
    Silence,
    Stalled,
    Text,
    ToolCall,
)
from tests.support.processes import until
from workers.models.base import Answer, Job, ModelError, Usage
from workers.models.factory import build_llm
from workers.models.protocols import LLM

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def llm_at(url: str, model: str = "openai:qwen2.5", stall_timeout: float = 60.0) -> LLM:
    return build_llm(model=model, base_url=url, exec_command=None, handler=None, stall_timeout=stall_timeout)


async def run(server: OpenAIServer, **job: Any) -> Answer:
    return await llm_at(server.url).run(Job("t-1", 1, "Say hello.", **job), lambda text: None)


async def failure(server: OpenAIServer, *replies: Reply, **job: Any) -> ModelError:
    server.script(*replies)
    with pytest.raises(ModelError) as caught:
        await run(server, **job)
    return caught.value


def test_the_server_says_nothing_of_a_client_that_has_gone(
    server: OpenAIServer, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        until(lambda: threading.active_count() > threads, "the server has a thread for the client")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it is a reset
    until(lambda: threading.active_count() == threads, "the server is done with the client")
    assert capfd.readouterr().err == ""


async def test_a_streamed_answer_with_its_usage(server: OpenAIServer) -> None:
    server.script(Text("Hel", "lo", " there", usage=(21, 3)))
    pieces: list[str] = []
    llm = llm_at(server.url)
    answer = await llm.run(Job("t-1", 1, "Say hello.", inputs={"text": "x"}, instructions="Be brief."), pieces.append)
    assert answer == Answer("Hello there", Usage(input_tokens=21, output_tokens=3, requests=1))
    assert pieces == ["Hel", "lo", " there"]
    assert llm.model == "openai:qwen2.5"
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body["model"] == "qwen2.5"
    assert [message["role"] for message in request.body["messages"]] == ["system", "user"]
    assert request.body["messages"][0]["content"] == "Be brief."
    assert "<inputs>" in request.body["messages"][1]["content"]


async def test_usage_is_unknown_where_the_server_does_not_tell(server: OpenAIServer) -> None:
    server.script(Text("Hello", usage=None))
    assert await run(server) == Answer("Hello", Usage(requests=1))


@pytest.mark.parametrize("reply", [Silence(), Stalled("Half an ans")])
async def test_a_server_that_sends_nothing_for_too_long_has_stalled(
    server: OpenAIServer, reply: Silence | Stalled
) -> None:
    server.script(reply)
    with pytest.raises(ModelError) as caught:
        await llm_at(server.url, stall_timeout=0.5).run(Job("t-1", 1, "Say hello.", timeout=60), lambda text: None)
    assert (caught.value.type, caught.value.retryable) == ("stalled", True)
    assert caught.value.message == f"{server.url}/: nothing came for 0.5 s (--stall-timeout)"
    assert await asyncio.to_thread(reply.left.wait, 10)
    assert len(server.requests) == 1


async def test_the_text_is_shown_before_the_answer_is_complete(server: OpenAIServer) -> None:
    stalled = Stalled("First words")
    server.script(stalled)
    seen: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(llm_at(server.url).run(Job("t-1", 1, "Say hello."), seen.put_nowait))
    assert await asyncio.wait_for(seen.get(), 10) == "First words"
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_stopping_a_job_closes_its_request(server: OpenAIServer) -> None:
    stalled = Stalled("First words")
    server.script(stalled)
    started = asyncio.Event()
    task = asyncio.create_task(llm_at(server.url).run(Job("t-1", 1, "Say hello."), lambda text: started.set()))
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(stalled.left.wait, 10)


async def test_a_key_of_the_environment_is_sent_and_none_is_needed(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(Text("a"), Text("b"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert (await run(server)).result == "a"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    assert (await run(server)).result == "b"
    assert [it.headers["authorization"] for it in server.requests] == ["Bearer api-key-not-set", "Bearer sk-mine"]


@pytest.mark.parametrize(
    ("model", "asked_for"),
    [
        ("openai:qwen2.5", "qwen2.5"),
        ("openai-chat:qwen2.5", "qwen2.5"),
        ("ollama:llama3.2:3b", "llama3.2:3b"),
        ("vllm:Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen2.5:7b", "qwen2.5:7b"),
        ("some-gguf", "some-gguf"),
    ],
)
async def test_every_way_to_name_a_model_of_the_server(server: OpenAIServer, model: str, asked_for: str) -> None:
    server.script(Text("ok"))
    assert (await llm_at(server.url, model).run(Job("t", 1, "d"), lambda text: None)).result == "ok"
    assert server.requests[0].body["model"] == asked_for


async def test_ollama_is_found_by_its_environment_variable(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", server.url)
    server.script(Text("ok"))
    llm = build_llm(model="ollama:llama3.2", base_url=None, exec_command=None, handler=None)
    assert (await llm.run(Job("t", 1, "d"), lambda text: None)).result == "ok"


async def test_a_rate_limit_is_reported_at_once_with_what_the_server_asks_for(server: OpenAIServer) -> None:
    error = await failure(server, Refusal(429, "slow down", {"Retry-After": "0.4"}), Text("never"))
    assert (error.type, error.message, error.retryable) == ("rate_limited", "status 429: slow down", True)
    assert error.retry_after == 0.4
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "provider_error"), (502, "provider_error"), (503, "overloaded"), (529, "overloaded")]
)
async def test_an_error_of_the_server_ends_a_run_that_has_no_answer_yet_at_once(
    server: OpenAIServer, status: int, kind: str
) -> None:
    error = await failure(server, Refusal(status, "out of memory", {"Retry-After": "7"}), Text("never"))
    assert (error.type, error.message, error.retryable) == (kind, f"status {status}: out of memory", True)
    assert error.retry_after == 7
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, "request_rejected"),
        (401, "invalid_api_key", "authentication"),
        (403, None, "authentication"),
        (404, "model_not_found", "model_not_found"),
        (413, None, "request_rejected"),
        (429, "insufficient_quota", "quota_exceeded"),
        (400, "context_length_exceeded", "context_too_long"),
    ],
)
async def test_what_another_attempt_cannot_mend_says_so(
    server: OpenAIServer, status: int, code: str | None, kind: str
) -> None:
    refusal = Refusal(status, "that is wrong", {"Retry-After": "0.01"}, code)
    error = await failure(server, refusal, refusal, refusal)
    assert (error.type, error.message, error.retryable) == (kind, f"status {status}: that is wrong", False)


async def test_a_stream_that_breaks_off_is_a_failure_and_no_answer(server: OpenAIServer) -> None:
    error = await failure(server, Dropped("Half an ans"))
    assert (error.type, error.retryable) == ("connection", True)
    assert error.message.startswith(f"{server.url}/: ")
    assert len(server.requests) == 1


async def test_a_server_that_is_not_there_is_a_failure_that_names_it() -> None:
    with OpenAIServer() as server:
        url = server.url
    with pytest.raises(ModelError) as caught:
        await llm_at(url).run(Job("t-1", 1, "Say hello."), lambda text: None)
    assert (caught.value.type, caught.value.retryable) == ("connection", True)
    assert url in caught.value.message


async def test_an_answer_cut_off_at_the_token_limit_is_not_taken_for_whole(server: OpenAIServer) -> None:
    error = await failure(server, Text("Once upon a", finish="length"))
    assert (error.type, error.retryable) == ("output_truncated", False)


async def test_a_refused_answer_fails_for_good(server: OpenAIServer) -> None:
    error = await failure(server, Text("", finish="content_filter"))
    assert (error.type, error.retryable) == ("content_filter", False)


async def test_structured_output_comes_as_a_tool_call_in_pieces(server: OpenAIServer) -> None:
    server.script(ToolCall('{"x"', ": 3}"))
    assert (await run(server, output_schema=POINT)).result == {"x": 3}
    (tool,) = server.requests[0].body["tools"]
    assert tool["function"]["parameters"]["properties"] == POINT["properties"]


async def test_structured_output_is_mended_once_and_both_requests_are_counted(server: OpenAIServer) -> None:
    server.script(ToolCall('{"x": "three"}'), ToolCall('{"x": 3}'))
    answer = await run(server, output_schema=POINT)
    assert answer == Answer({"x": 3}, Usage(input_tokens=22, output_tokens=14, requests=2))
    assert "'three' is not of type 'integer'" in server.requests[1].body["messages"][-1]["content"]


async def test_structured_output_that_stays_wrong_is_a_failure(server: OpenAIServer) -> None:
    error = await failure(server, ToolCall('{"x": '), ToolCall('{"y": 1}'), ToolCall('{"x": 3}'), output_schema=POINT)
    assert (error.type, error.retryable) == ("output_schema", True)
    assert "'x' is a required property" in error.message
    assert len(server.requests) == 2


async def test_slots_share_one_model(server: OpenAIServer) -> None:
    server.script(*[Text("ok")] * 8)
    llm = llm_at(server.url)
    jobs = [llm.run(Job(f"t-{n}", 1, "Say hello."), lambda text: None) for n in range(8)]
    assert [answer.result for answer in await asyncio.gather(*jobs)] == ["ok"] * 8
