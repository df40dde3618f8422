"""Fallback models answer where the first one cannot, and the result names the model that answered, over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from broker.errors import ConfigurationError
from broker.protocol.worker_reports import ModelUsage, Price
from tests.integration.models.conftest import failure_of, llm_at
from tests.support.openai_server import Dropped, Events, OpenAIServer, Refusal, Reply, Text, ToolCall
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Answer, Job, Usage
from workers.models.factory import build_llm
from workers.models.protocols import LLM

FIRST, SECOND = "openai:first", "vllm:second"
LIMITED = Refusal(429, "slow down", {"Retry-After": "30"})


@pytest.fixture
def other() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def llm(server: OpenAIServer, other: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> LLM:
    monkeypatch.setenv("VLLM_BASE_URL", other.url)
    return llm_at(server.url, FIRST, fallback=[SECOND], prices={SECOND: Price(input=1.0, output=10.0)})


async def run(llm: LLM, **job: Any) -> Answer:
    return await llm.run(Job("t-1", 1, "Say hello.", **job), lambda text: None)


@pytest.mark.parametrize(
    "refusal",
    [
        LIMITED,
        Refusal(429, "no credit", {}, "insufficient_quota"),
        Refusal(500, "oops"),
        Refusal(503, "busy"),
        Refusal(529, "overloaded"),
        Refusal(400, "This model's maximum context length is 4096 tokens", {}, "context_length_exceeded"),
        Events({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}),
    ],
    ids=["limit", "quota", "error", "busy", "overloaded", "context", "in-stream"],
)
async def test_the_next_model_answers_when_the_first_one_cannot(
    llm: LLM, server: OpenAIServer, other: OpenAIServer, refusal: Reply
) -> None:
    server.script(refusal)
    other.script(Text("Hello"))
    answer = await run(llm)
    assert (answer.result, answer.model) == ("Hello", SECOND)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.requests) == (11, 1)
    assert answer.usage.cost_usd == pytest.approx(11e-6 + 7 * 10e-6)
    assert (len(server.requests), len(other.requests)) == (1, 1)


async def test_the_next_model_answers_when_the_server_of_the_first_one_is_gone(
    other: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BASE_URL", other.url)
    with OpenAIServer() as gone:
        llm = llm_at(gone.url, FIRST, fallback=[SECOND])
    other.script(Text("Hello"))
    assert (await run(llm)).model == SECOND


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal(401, "bad key"), "authentication"),
        (Refusal(404, "no such model"), "model_not_found"),
        (Refusal(400, "temperature is too high"), "request_rejected"),
    ],
)
async def test_a_wrong_key_and_a_refused_request_are_not_hidden_by_another_model(
    llm: LLM, server: OpenAIServer, other: OpenAIServer, refusal: Refusal, kind: str
) -> None:
    server.script(refusal)
    assert (await failure_of(llm)).type == kind
    assert not other.requests


async def test_no_other_model_takes_over_a_text_that_was_shown(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    server.script(Dropped("Half an ans"))
    shown: list[str] = []
    error = None
    try:
        await llm.run(Job("t-1", 1, "Say hello."), shown.append)
    except Exception as raised:
        error = raised
    assert getattr(error, "type", None) == "connection"
    assert not other.requests


async def test_the_first_model_answers_while_it_can(llm: LLM, server: OpenAIServer, other: OpenAIServer) -> None:
    server.script(Text("Hello"))
    answer = await run(llm)
    assert (answer.result, answer.model) == ("Hello", None)
    assert answer.usage == Usage(input_tokens=11, output_tokens=7, requests=1)
    assert not other.requests


async def test_each_model_of_a_run_has_its_usage(llm: LLM, server: OpenAIServer, other: OpenAIServer) -> None:
    server.script(ToolCall('{"question": "Which colour?"}', name="ask_person"), LIMITED)
    other.script(ToolCall('{"question": " "}', name="ask_person"), Text("blue"))
    answer = await llm.run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person"))
    assert (answer.result, answer.model) == ("blue", SECOND)
    assert answer.usage is not None
    assert answer.usage.models is not None
    assert answer.usage.models[FIRST] == ModelUsage(input_tokens=11, output_tokens=7, requests=1)
    second = answer.usage.models[SECOND]
    assert (second.input_tokens, second.output_tokens, second.requests) == (22, 14, 2)
    assert second.cost_usd == pytest.approx(2 * (11e-6 + 7 * 10e-6))
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.requests) == (33, 21, 3)
    assert answer.usage.cost_usd is None, "the price of the first model is unknown"
    assert len(server.requests) == 2, "the run stays with the model that answers"


async def test_a_model_is_not_asked_while_its_provider_asks_to_wait(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    server.script(LIMITED)
    other.script(Text("one"), Text("two"), Text("three"))
    assert [(await run(llm)).result for _ in range(3)] == ["one", "two", "three"]
    assert len(server.requests) == 1


async def test_if_no_model_answers_the_limit_of_the_first_one_is_reported(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    server.script(LIMITED)
    other.script(Refusal(500, "oops", {"Retry-After": "3"}))
    error = await failure_of(llm)
    assert (error.type, error.retry_after, error.retryable) == ("rate_limited", 30, True)
    assert error.message == f"{FIRST}: status 429: slow down; {SECOND}: status 500: oops"


async def test_a_wrong_key_of_a_fallback_model_does_not_hide_the_limit_of_the_first_one(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    server.script(LIMITED)
    other.script(Refusal(401, "bad key"))
    error = await failure_of(llm)
    assert (error.type, error.retry_after) == ("rate_limited", 30)
    assert f"{SECOND}: status 401: bad key" in error.message


async def test_a_prompt_that_only_the_first_model_cannot_take_waits_for_the_other_one(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    too_long = Refusal(400, "This model's maximum context length is 4096 tokens", {}, "context_length_exceeded")
    server.script(too_long, too_long)
    other.script(LIMITED, too_long)
    error = await failure_of(llm)
    assert (error.type, error.retry_after) == ("overloaded", 30), "its own limit is open"


async def test_a_prompt_that_is_too_long_for_all_models_is_too_long(
    server: OpenAIServer, llm: LLM, other: OpenAIServer
) -> None:
    too_long = Refusal(400, "This model's maximum context length is 4096 tokens", {}, "context_length_exceeded")
    server.script(too_long)
    other.script(too_long)
    assert (await failure_of(llm)).type == "context_too_long"


async def test_a_fallback_model_that_cannot_call_tools_does_not_take_them_from_the_first_one(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    server.script(Refusal(500, "oops"), Refusal(500, "oops"), ToolCall('{"x": 4}'))
    other.script(Refusal(400, "this model does not support tools"), Text('{"x": 3}'))
    first, second = await run(llm, output_schema=schema), await run(llm, output_schema=schema)
    assert (first.result, first.model) == ({"x": 3}, SECOND)
    assert (second.result, second.model) == ({"x": 4}, None)
    assert ["tools" in request.body for request in server.requests] == [True, False, True]


async def test_limits_that_both_report_within_their_streams_are_a_limit(
    llm: LLM, server: OpenAIServer, other: OpenAIServer
) -> None:
    event = Events({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    server.script(event)
    other.script(event)
    error = await failure_of(llm)
    assert (error.type, error.retry_after, error.usage) == ("rate_limited", None, None)


def test_fallback_models_are_checked_before_the_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    def problem(model: str | None, *fallback: str, exec_command: str | None = None) -> str:
        with pytest.raises(ConfigurationError) as caught:
            build_llm(model=model, base_url=None, exec_command=exec_command, handler=None, fallback=fallback)
        return str(caught.value)

    assert "set the environment variable ANTHROPIC_API_KEY" in problem("openai:gpt-5", "anthropic:claude-haiku-5-5")
    assert problem("openai:gpt-5", "anthropic:claude-haiku-5-5").startswith("--fallback anthropic:")
    assert "goes with a --model" in problem(None, "openai:gpt-5", exec_command="cat")
    assert "can be named once" in problem("openai:gpt-5", "openai:gpt-5")
    assert "demo model" in problem("openai:gpt-5", "demo")
