"""Refusals of model servers, and the check of a model before its first task, over HTTP."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_models_provider import POINT, failure, llm_at, run
from tests.support.openai_server import Document, OpenAIServer, Refusal, Text, ToolCall, ToolCalls
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Job, ModelError
from workers.models.factory import build_llm, warn_of_trouble

TOO_LONG = [
    (400, "This model's maximum context length is 4096 tokens. However, you requested 9999 tokens"),
    (400, "request (513 tokens) exceeds the available context size (512 tokens), try increasing it"),
    (400, "the input length exceeds the context length"),
    (400, "prompt too long; exceeded max context length by 12 tokens"),
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (400, "The input (9000 tokens) is longer than the model's context length (4096 tokens)."),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000"),
    (400, "This model's maximum prompt length is 131072 but the request contains 200000 tokens."),
    (400, "The number of tokens to keep from the initial prompt is greater than the context length"),
    (500, "Context size has been exceeded."),
]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


# -- failures in words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "message"), TOO_LONG)
async def test_a_prompt_that_is_too_long_is_told_as_that(server: OpenAIServer, status: int, message: str) -> None:
    error = await failure(server, Refusal(status, message), Refusal(status, message), Refusal(status, message))
    assert (error.type, error.retryable) == ("context_too_long", False)
    assert error.message == f"status {status}: {message}"


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, {"detail": "Not Found"}, "model_not_found", "Not Found"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "is required"}]}, "request_rejected", "body.n: is required"),
        (400, [{"error": {"message": "list shaped"}}], "request_rejected", "list shaped"),
        (400, {"error": "just a text"}, "request_rejected", "just a text"),
        (400, {}, "request_rejected", "no details"),
    ],
)  # fmt: skip
async def test_the_reason_for_a_refusal_is_found_wherever_it_stands(
    server: OpenAIServer, status: int, body: Any, kind: str, said: str
) -> None:
    error = await failure(server, Document(json.dumps(body), "application/json", status))
    assert (error.type, error.message) == (kind, f"status {status}: {said}")


async def test_a_page_of_a_proxy_is_told_in_words(server: OpenAIServer) -> None:
    page = Document("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", status=502)
    error = await failure(server, page, page, page)
    assert (error.type, error.message) == ("provider_error", "status 502: 502 Bad Gateway nginx")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Document("<!DOCTYPE html><html></html>"), "web page: is the base URL right? (it usually ends in /v1)"),
        (Document('{"choices": []}', "application/json"), "did not stream its answer: the server must support"),
        (Document('{"error": {"message": "no such route"}}', "application/json"), "did not stream its answer: no such"),
        (Document("", "application/json"), "did not stream its answer: the answer is empty"),
    ],
)
async def test_what_is_no_answer_of_a_model_server_is_said(server: OpenAIServer, reply: Document, said: str) -> None:
    error = await failure(server, reply)
    assert (error.type, error.retryable) == ("not_a_model_server", False)
    assert said in error.message
    assert len(server.requests) == 1


async def test_wrong_calls_of_a_tool_are_told_by_what_is_wrong_with_them(server: OpenAIServer) -> None:
    def misses(name: str, arguments: str) -> ToolCalls:
        return ToolCalls(ToolCall(arguments, name=name))

    async def told(*replies: ToolCalls) -> str:
        server.script(*replies)
        with pytest.raises(ModelError) as caught:
            await llm_at(server.url).run(Job("t-1", 1, "Ask."), lambda text: None, toolbox("ask_person"))
        assert (caught.value.type, caught.value.retryable) == ("wrong_tool_call", True)
        return caught.value.message

    wrong = misses("ask_person", '{"qestion": 5}')
    assert "called the tool ask_person wrongly: question:" in await told(wrong, wrong)
    assert "Unknown tool name: 'get_weather'" in await told(misses("get_weather", "{}"), misses("get_weather", "{}"))


async def test_structured_output_that_is_no_json_says_where(server: OpenAIServer) -> None:
    error = await failure(server, ToolCall('{"x": '), ToolCall('{"x": '), output_schema=POINT)
    assert error.type == "output_schema"
    assert "Invalid JSON" in error.message


async def test_a_server_that_asks_to_wait_for_too_long_fails_at_once(server: OpenAIServer) -> None:
    error = await failure(server, Refusal(429, "quota of the day", {"Retry-After": "100000"}))
    assert error.type == "rate_limited"
    assert len(server.requests) == 1


async def test_a_server_that_is_loading_its_model_is_waited_for_longer_than_an_error(server: OpenAIServer) -> None:
    loading = Refusal(503, "Loading model")
    server.script(loading, loading, loading, Text("loaded"))
    assert (await run(server)).result == "loaded"
    assert len(server.requests) == 4


# -- before the first task -----------------------------------------------------------------------------------------


async def warned(url: str, model: str, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.WARNING)
    llm = build_llm(model=model, base_url=url, exec_command=None, handler=None)
    await warn_of_trouble("ana", llm)
    return "; ".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("models", [["qwen2.5"], ["qwen2.5:latest", "other"], [], None, Document("?", "text/plain")])
async def test_a_server_that_has_the_model_or_does_not_say_gives_no_warning(
    server: OpenAIServer, models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = models
    assert await warned(server.url, "openai:qwen2.5", caplog) == ""


async def test_a_server_without_the_model_is_told_with_what_it_has(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = ["gemma3:4b", "qwen2.5:latest"]
    assert await warned(server.url, "ollama:llama3.2", caplog) == (
        f"ana: {server.url}/ has no model llama3.2, but gemma3:4b, qwen2.5:latest; get it with `ollama pull llama3.2`"
    )


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (Document('{"error": {"message": "bad key"}}', "application/json", 401), "refuses the API key (status 401)"),
        (Document("<html></html>"), "answered with a web page: is the base URL right?"),
        (Document('{"error": {"message": "Loading model"}}', "application/json", 503), "is not ready (status 503)"),
    ],
)
async def test_a_server_that_would_not_answer_is_told(
    server: OpenAIServer, models: Document, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = models
    assert said in await warned(server.url, "openai:qwen2.5", caplog)
    assert not server.requests, "it costs no tokens"


async def test_a_server_that_is_not_there_is_told_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with OpenAIServer() as server:
        url = server.url
    said = await warned(url, "ollama:llama3.2", caplog)
    assert "does not answer" in said
    assert "`ollama serve`" in said


async def test_a_base_url_without_its_version_is_suspected(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    said = await warned(server.url.removesuffix("/v1"), "openai:qwen2.5", caplog)
    assert "is the base URL right? (it usually ends in /v1)" in said
