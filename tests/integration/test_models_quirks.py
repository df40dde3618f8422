"""What real servers of models send besides clean answers, over HTTP: answers that are none, odd figures, no tools."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_models_provider import POINT, failure, llm_at, run
from tests.support.openai_server import Events, OpenAIServer, Refusal, Text, ToolCall
from tests.unit.workers.models.test_tools_of_models import toolbox
from workers.models.base import Answer, Job, ModelError, Usage

NO_TOOLS = [
    Refusal(400, "registry.ollama.ai/library/gemma3:4b does not support tools"),
    Refusal(500, "tools param requires --jinja flag"),
    Refusal(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    Refusal(404, "No endpoints found that support tool use."),
    Refusal(400, "deepseek-reasoner does not support Function Calling"),
    Refusal(400, "This model does not support this tool_choice"),
]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


# -- answers that are cut off --------------------------------------------------------------------------------------


async def test_a_stream_that_ends_before_its_answer_is_a_lost_connection(server: OpenAIServer) -> None:
    error = await failure(server, Text("Half an ans", finish=None, done=False))
    assert (error.type, error.retryable) == ("connection", True)
    assert error.message == f"{server.url}/: the stream ended in the middle of the answer"
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [Text("All", finish=None), Text("All", done=False)])
async def test_a_reason_to_finish_or_the_last_event_is_enough_for_an_end(server: OpenAIServer, reply: Text) -> None:
    server.script(reply)
    assert (await run(server)).result == "All"


@pytest.mark.parametrize(
    ("finish", "kind", "retryable"),
    [
        ("length", "output_truncated", False),
        ("model_length", "output_truncated", False),
        ("content_filter", "content_filter", False),
        ("SAFETY", "content_filter", False),
        ("error", "provider_error", True),
        ("insufficient_system_resource", "provider_error", True),
        ("tool_calls", "wrong_tool_call", True),
    ],
)
async def test_a_text_that_the_provider_ended_early_is_no_answer(
    server: OpenAIServer, finish: str, kind: str, retryable: bool
) -> None:
    error = await failure(server, Text("I", finish=finish, usage=(5, 1)))
    assert (error.type, error.retryable) == (kind, retryable)
    assert error.usage == Usage(input_tokens=5, output_tokens=1, requests=1)


async def test_a_tool_call_that_was_cut_off_is_no_answer(server: OpenAIServer) -> None:
    called = ToolCall('{"x": 3}')
    called.finish = "length"
    error = await failure(server, called, output_schema=POINT)
    assert error.type == "output_truncated"


async def test_an_error_in_a_stream_is_told_as_it_is(server: OpenAIServer) -> None:
    error = await failure(server, Events(chunk({"content": "Half"}), {"error": "CUDA out of memory"}))
    assert (error.type, error.message, error.retryable) == ("provider_error", "CUDA out of memory", True)
    error = await failure(server, Events(chunk({"content": "Half"}), {"error": {"message": "slow down", "code": 429}}))
    assert (error.type, error.message) == ("rate_limited", "status 429: slow down")


def anthropic_events(*, ends: bool = True, reason: str = "end_turn") -> Events:
    start: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1},
    }
    text = {"type": "text_delta", "text": "Half an answer"}
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": start}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": text}),
    ]
    if ends:
        delta = {"stop_reason": reason, "stop_sequence": None}
        events += [
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": delta, "usage": {"output_tokens": 3}}),
            ("message_stop", {}),
        ]
    return Events(*((name, {"type": name, **event}) for name, event in events))


async def test_answers_of_anthropics_protocol_are_whole_or_failures_too(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    llm = llm_at(server.url.removesuffix("/v1"), "anthropic:claude-haiku-5-5")

    async def kind(reply: Events | Refusal) -> str:
        server.script(reply)
        with pytest.raises(ModelError) as caught:
            await llm.run(Job("t-1", 1, "Say hello."), lambda text: None)
        return caught.value.type

    server.script(anthropic_events())
    answer = await llm.run(Job("t-1", 1, "Say hello."), lambda text: None)
    assert answer.result == "Half an answer"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 3)
    assert await kind(anthropic_events(ends=False)) == "connection"
    assert await kind(anthropic_events(reason="max_tokens")) == "output_truncated"
    assert await kind(anthropic_events(reason="refusal")) == "content_filter"
    assert await kind(Refusal(400, "prompt is too long: 210000 tokens > 200000 maximum")) == "context_too_long"


# -- usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}, (11, 7)),
        ({"prompt_tokens": 11.0, "completion_tokens": 7.5, "total_tokens": 18.5}, (11, None)),
        ({"prompt_tokens": "11", "completion_tokens": "7", "total_tokens": "18"}, (11, 7)),
        ({"prompt_tokens": 10**15, "completion_tokens": 7, "total_tokens": 10**15 + 7}, (None, 7)),
        ({"prompt_tokens": -1, "completion_tokens": -5, "total_tokens": -6}, None),
        ({"prompt_tokens": 11, "total_tokens": 11}, (11, None)),
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, None),
        ({"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": "x"}}, (11, 7)),
        ({"tokens": {"in": 11}}, None),
    ],
)
async def test_figures_that_make_no_sense_are_left_out_and_the_answer_stays(
    server: OpenAIServer, given: dict[str, Any], known: tuple[int | None, int | None] | None
) -> None:
    server.script(Events(chunk({"content": "ok"}), chunk({}, "stop"), {**chunk({}), "choices": [], "usage": given}))
    count_in, count_out = known or (None, None)
    usage = Usage(input_tokens=count_in, output_tokens=count_out, requests=1)
    assert await run(server) == Answer("ok", usage)


async def test_of_running_totals_the_last_one_counts(server: OpenAIServer) -> None:
    def totals(output: int) -> dict[str, int]:
        return {"prompt_tokens": 5, "completion_tokens": output, "total_tokens": 5 + output}

    server.script(
        Events(
            chunk({"content": "a"}, usage=totals(1)),
            chunk({"content": "b"}, usage=totals(2)),
            chunk({}, "stop", usage=totals(2)),
        )
    )
    assert await run(server) == Answer("ab", Usage(input_tokens=5, output_tokens=2, requests=1))


# -- tools that there are not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", NO_TOOLS, ids=lambda refusal: refusal.message[:30])
async def test_a_model_that_cannot_call_tools_is_asked_in_words_from_then_on(
    server: OpenAIServer, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    llm = llm_at(server.url)
    server.script(refusal, Text('```json\r\n{"x": 3}\r\n```'), Text('{"x": 4}'))
    for number in (3, 4):
        answer = await llm.run(Job("t-1", 1, "Count.", output_schema=POINT), lambda text: None)
        assert answer.result == {"x": number}
    assert ["tools" in request.body for request in server.requests] == [True, False, False]
    assert "JSON Schema" in server.requests[1].body["messages"][-1]["content"]
    assert refusal.message in caplog.text


async def test_a_model_that_cannot_use_the_tools_of_its_worker_works_without_them(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(NO_TOOLS[0], Text("Hello"))
    answer = await llm_at(server.url).run(Job("t-1", 1, "Say hello."), lambda text: None, toolbox("ask_person"))
    assert answer.result == "Hello"
    assert "openai:qwen2.5 cannot call tools" in caplog.text


async def test_a_schema_that_no_tool_can_have_is_asked_for_in_words_this_once(server: OpenAIServer) -> None:
    llm = llm_at(server.url)
    refusal = Refusal(400, "Invalid schema for function 'final_result': In context=(), 'oneOf' is not permitted.")
    server.script(refusal, Text('{"x": 3}'), ToolCall('{"x": 4}'))
    for number in (3, 4):
        answer = await llm.run(Job("t-1", 1, "Count.", output_schema=POINT), lambda text: None)
        assert answer.result == {"x": number}
    assert ["tools" in request.body for request in server.requests] == [True, False, True]


async def test_a_refusal_that_is_not_about_tools_is_a_failure(server: OpenAIServer) -> None:
    error = await failure(server, Refusal(400, "temperature is not supported"), output_schema=POINT)
    assert error.type == "request_rejected"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 3}',
        'Here is the JSON:\n\n{"x": 3}',
        '<think>\nlet me see {"x": 2}\n</think>\n\n{"x": 3}',
        'let me see\n</think>\n\n```json\n{"x": 3}\n```',
    ],
)
async def test_a_model_that_writes_its_json_in_place_of_calling_the_tool_has_answered(
    server: OpenAIServer, text: str
) -> None:
    server.script(Text(text[:9], text[9:]))
    assert (await run(server, output_schema=POINT)).result == {"x": 3}
    assert len(server.requests) == 1


# -- reasoning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        ("<think>", "hmm", "</think>", "\n\nanswer"),
        ("<think>\nhm", "m\n</think>\n\nanswer"),
        ("hmm so I think", "\n</think>", "\n\nanswer"),
        ("<thi", "nk>hmm</thi", "nk>", "answer"),
        ("\n<think>", "\nhmm", "\n", "</think>", "\n\n", "answer"),
    ],
)
async def test_reasoning_before_an_answer_is_no_part_of_it(server: OpenAIServer, pieces: tuple[str, ...]) -> None:
    server.script(Text(*pieces))
    shown: list[str] = []
    assert (await llm_at(server.url).run(Job("t-1", 1, "Say hello."), shown.append)).result == "answer"
    assert "<think>" not in "".join(shown)


async def test_a_tag_in_the_middle_of_an_answer_stays(server: OpenAIServer) -> None:
    pieces = ("Models write ", "<think>", " and ", "</think>", " around their reasoning.")
    server.script(Text(*pieces))
    assert (await run(server)).result == "".join(pieces)


async def test_a_model_that_only_reasons_has_not_answered(server: OpenAIServer) -> None:
    error = await failure(server, Text("<think>hmm</think>"), Text("<think>", "hmm", "</think>"))
    assert (error.type, error.message) == ("no_answer", "the model answered nothing")
