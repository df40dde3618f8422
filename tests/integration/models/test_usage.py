"""What a run uses is reported in full, while it goes on and however it ends, over HTTP."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from broker.protocol.assignments import Allowance
from broker.protocol.worker_reports import Price
from tests.integration.models.conftest import failure_of, llm_at
from tests.support.openai_server import Events, OpenAIServer, Refusal, Silence, Stalled, Text, ToolCall
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Job, ModelError, Usage

PRICE = Price(input=1.0, output=10.0, cached_input=0.1)
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


def answer_with(usage: Mapping[str, Any], text: str = "ok") -> Events:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    return Events(chunk({"content": text}), chunk({}, "stop"), {**chunk({}), "choices": [], "usage": usage})


def asks(question: str = "Which colour?") -> ToolCall:
    return ToolCall(f'{{"question": "{question}"}}', name="ask_person")


async def used(server: OpenAIServer, usage: Mapping[str, Any], **options: Any) -> Usage | None:
    server.script(answer_with(usage))
    return (await llm_at(server.url, **options).run(Job("t-1", 1, "d"), lambda text: None)).usage


async def test_cached_and_reasoning_tokens_are_counted(server: OpenAIServer) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 800},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    assert await used(server, usage) == Usage(
        input_tokens=1000, output_tokens=50, cached_tokens=800, reasoning_tokens=30, requests=1
    )
    priced = await used(server, usage, prices={"": PRICE})
    assert priced is not None
    assert priced.cost_usd == pytest.approx(200e-6 + 800 * 0.1e-6 + 50 * 10e-6)


def anthropic_answer(usage: Mapping[str, Any], output_tokens: Any) -> Events:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": []}
    ending = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": output_tokens}}
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "ok"}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", ending),
        ("message_stop", {}),
    ]
    return Events(*((name, {"type": name, **event}) for name, event in events))


async def test_tokens_written_to_a_cache_are_counted(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    usage = {
        "input_tokens": 100,
        "output_tokens": 1,
        "cache_read_input_tokens": 700,
        "cache_creation_input_tokens": 200,
    }
    server.script(anthropic_answer(usage, 9))
    llm = llm_at(server.url.removesuffix("/v1"), "anthropic:claude-haiku-5-5")
    found = (await llm.run(Job("t-1", 1, "d"), lambda text: None)).usage
    assert found is not None
    assert found.model_copy(update={"cost_usd": None}) == Usage(
        input_tokens=1000, output_tokens=9, cached_tokens=700, cache_write_tokens=200, requests=1
    )
    assert found.cost_usd == pytest.approx(100 * 0.1e-6 + 700 * 0.01e-6 + 200 * 0.125e-6 + 9 * 0.5e-6)


@pytest.mark.parametrize(
    ("usage", "output_tokens"),
    [
        ({"input_tokens": -100, "output_tokens": 1}, -9),
        ({"input_tokens": 10**15, "output_tokens": 1}, 10**15),
        ({"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": -700}, 10**15),
    ],
)
async def test_lies_about_the_usage_in_another_protocol_do_not_break_an_answer(
    server: OpenAIServer, usage: dict[str, Any], output_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    server.script(anthropic_answer(usage, output_tokens))
    llm = llm_at(server.url.removesuffix("/v1"), "anthropic:claude-haiku-5-5")
    answer = await llm.run(Job("t-1", 1, "d"), lambda text: None)
    assert answer.result == "ok"
    assert answer.usage == Usage(requests=1)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 10**15}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None},
    ],
)
async def test_parts_that_contradict_the_whole_are_left_out(server: OpenAIServer, usage: dict[str, Any]) -> None:
    assert await used(server, usage) == Usage(input_tokens=10, output_tokens=5, requests=1)


async def test_a_usage_that_the_server_invents_costs_nothing_known(server: OpenAIServer) -> None:
    usage = {"prompt_tokens": 10**15, "completion_tokens": -7}
    assert await used(server, usage, prices={"": PRICE}) == Usage(requests=1)
    assert await used(server, usage, prices={"": Price(input=0.0, output=0.0)}) == Usage(requests=1, cost_usd=0.0)


async def test_the_usage_is_reported_after_every_answer_that_is_not_the_last(server: OpenAIServer) -> None:
    reported: list[Usage] = []
    server.script(asks(), asks(" "), Text("blue"))
    job = Job("t-1", 2, "paint", report_usage=reported.append)
    tools = toolbox("ask_person")
    answer = await llm_at(server.url, prices={"": PRICE}).run(job, lambda text: None, tools)
    assert [(it.input_tokens, it.output_tokens, it.requests) for it in reported] == [(11, 7, 1), (22, 14, 2)]
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.requests) == (33, 3)
    assert answer.usage.cost_usd == pytest.approx(3 * (11e-6 + 7 * 10e-6))


async def test_a_run_with_one_request_reports_its_usage_only_at_the_end(server: OpenAIServer) -> None:
    reported: list[Usage] = []
    server.script(Text("ok"))
    await llm_at(server.url).run(Job("t-1", 1, "d", report_usage=reported.append), lambda text: None)
    assert reported == []


@pytest.mark.parametrize("last", [Silence(), Stalled("Half an ans")])
async def test_what_a_stopped_run_has_used_is_reported(server: OpenAIServer, last: Silence | Stalled) -> None:
    reported: list[Usage] = []
    server.script(asks(), last)
    job = Job("t-1", 2, "paint", report_usage=reported.append)
    running = asyncio.create_task(
        llm_at(server.url, prices={"": PRICE}).run(job, lambda text: None, toolbox("ask_person"))
    )
    async with asyncio.timeout(20):
        while len(server.requests) < 2:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1 if isinstance(last, Stalled) else 0)
    running.cancel()
    await asyncio.wait([running])
    assert (reported[-1].input_tokens, reported[-1].output_tokens) == (11, 7)
    assert reported[-1].cost_usd == pytest.approx(11e-6 + 7 * 10e-6), "the answers before are paid for"


async def test_a_failure_has_the_usage_of_all_answers_before_it(server: OpenAIServer) -> None:
    server.script(ToolCall('{"x": "three"}'), Refusal(401, "bad key"))
    error = await failure_of(llm_at(server.url), output_schema=POINT)
    assert error.type == "authentication"
    assert error.usage == Usage(input_tokens=11, output_tokens=7, requests=1)


@pytest.mark.parametrize(
    ("allowance", "said"),
    [
        (Allowance(tokens=18), "18 tokens are used, of 18"),
        (Allowance(usd=0.00008), r"\$0.0001 are used, of \$0.0001"),
    ],
)
async def test_a_run_that_has_used_up_its_allowance_makes_no_further_request(
    server: OpenAIServer, allowance: Allowance, said: str
) -> None:
    server.script(asks(), Text("never"))
    job = Job("t-1", 2, "paint", budget=allowance)
    with pytest.raises(ModelError, match=said) as caught:
        await llm_at(server.url, prices={"": PRICE}).run(job, lambda text: None, toolbox("ask_person"))
    error = caught.value
    assert (error.type, error.retryable) == ("budget_exceeded", False)
    assert error.usage is not None
    assert error.usage.requests == 1
    assert len(server.requests) == 1


async def test_an_answer_that_is_complete_is_not_lost_because_it_used_more_than_allowed(server: OpenAIServer) -> None:
    server.script(Text("ok"))
    job = Job("t-1", 1, "d", budget=Allowance(usd=0.000001, tokens=1))
    answer = await llm_at(server.url, prices={"": PRICE}).run(job, lambda text: None)
    assert answer.result == "ok"
