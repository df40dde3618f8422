"""A pydantic-ai model gets the job as a conversation; its text streams, its usage is counted, its output checked."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel as CannedModel

from tests.support.processes import ROOT
from workers.models.base import Answer, Job, ModelError
from workers.models.provider.failures import kinds
from workers.models.provider.llm import PydanticAILLM

POINT = {
    "type": "object",
    "title": "A point / in 2D",
    "properties": {"x": {"type": "integer", "minimum": 0}},
    "required": ["x"],
}


class Script:
    """A model that answers with these texts or tool arguments, one per request, and keeps what it was asked."""

    def __init__(self, *replies: str | dict[int, DeltaToolCall]) -> None:
        self.replies = list(replies)
        self.asked: list[list[ModelMessage]] = []
        self.info: list[AgentInfo] = []

    @property
    def llm(self) -> PydanticAILLM:
        return PydanticAILLM("test:script", FunctionModel(stream_function=self._reply))

    async def _reply(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        self.asked.append(messages)
        self.info.append(info)
        reply = self.replies.pop(0)
        if isinstance(reply, str):
            yield reply[:3]
            yield reply[3:]
        else:
            yield reply


def call(arguments: str) -> dict[int, DeltaToolCall]:
    return {0: DeltaToolCall(name="final_result", json_args=arguments, tool_call_id="c1")}


async def run(llm: PydanticAILLM, pieces: list[str] | None = None, **job: Any) -> Answer:
    return await llm.run(Job("t-1", 1, **{"description": "Say {{hello}}.", **job}), (pieces or []).append)


def text_of(messages: list[ModelMessage]) -> str:
    return "\n".join(str(getattr(part, "content", "")) for message in messages for part in message.parts)


async def test_the_text_streams_and_is_the_answer() -> None:
    pieces: list[str] = []
    answer = await PydanticAILLM("test:x", CannedModel(custom_output_text="Hello dear rabbit")).run(
        Job("t-1", 1, "Say hello."), pieces.append
    )
    assert answer.result == "Hello dear rabbit" == "".join(pieces)
    assert len(pieces) > 1


async def test_tokens_are_counted_and_an_unknown_price_stays_unknown() -> None:
    usage = (await run(PydanticAILLM("test:x", CannedModel()))).usage
    assert usage is not None
    assert usage.input_tokens
    assert usage.output_tokens
    assert usage.cost_usd is None


async def test_the_job_is_the_prompt_and_the_instructions_are_the_system_prompt() -> None:
    script = Script("ok")
    await run(script.llm, inputs={"text": "raw {{x}}"}, instructions="Be {{brief}}.")
    assert "Say {{hello}}." in text_of(script.asked[0])
    assert "raw {{x}}" in text_of(script.asked[0])
    assert script.info[0].instructions == "Be {{brief}}."


async def test_an_object_is_asked_for_as_structured_output() -> None:
    script = Script(call('{"x": 3}'))
    answer = await run(script.llm, output_schema=POINT)
    assert answer.result == {"x": 3}
    (tool,) = script.info[0].output_tools
    assert tool.parameters_json_schema["properties"] == POINT["properties"]
    assert "JSON Schema" not in text_of(script.asked[0])


async def test_the_model_may_correct_its_output_once() -> None:
    script = Script(call('{"x": -1}'), call('{"x": 1}'))
    assert (await run(script.llm, output_schema=POINT)).result == {"x": 1}
    assert "$.x: -1 is less than the minimum of 0" in text_of(script.asked[1])


async def test_a_second_wrong_output_fails_the_attempt_and_says_why() -> None:
    script = Script(call('{"x": -1}'), call('{"x": -2}'), call('{"x": 1}'))
    with pytest.raises(ModelError, match=r"\$\.x: -2 is less than the minimum of 0") as caught:
        await run(script.llm, output_schema=POINT)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", True)
    assert len(script.asked) == 2
    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens, "what was used is told all the same"


@pytest.mark.parametrize(
    ("schema", "text", "result"),
    [
        ({"type": "array", "items": {"type": "integer"}}, "```json\n[1, 2]\n```", [1, 2]),
        ({"enum": ["yes", "no"]}, "yes", "yes"),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}}, '{"next": {}}', {"next": {}}),
    ],
)
async def test_a_schema_of_another_type_is_requested_as_text(schema: dict[str, Any], text: str, result: Any) -> None:
    script = Script(text)
    assert (await run(script.llm, output_schema=schema)).result == result
    assert "JSON Schema" in text_of(script.asked[0])


async def test_the_model_may_correct_a_wrong_text_once() -> None:
    schema = {"enum": ["yes", "no"]}
    script = Script("maybe", "no")
    assert (await run(script.llm, output_schema=schema)).result == "no"
    with pytest.raises(ModelError) as caught:
        await run(Script("maybe", "perhaps").llm, output_schema=schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", True)


async def test_a_schema_that_is_none_costs_no_request() -> None:
    script = Script("never")
    with pytest.raises(ModelError) as caught:
        await run(script.llm, output_schema={"type": "strnig"})
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)
    assert script.asked == []


async def test_two_empty_answers_fail_the_attempt() -> None:
    with pytest.raises(ModelError) as caught:
        await run(Script("", "").llm)
    assert (caught.value.type, caught.value.retryable) == ("no_answer", True)


def test_every_type_of_error_is_described_with_whether_another_attempt_may_help() -> None:
    page = (ROOT / "docs/howto-workers.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \|$", page, re.MULTILINE)
    assert dict(described) == {name: "yes" if retryable else "no" for name, retryable in kinds()}


async def test_an_output_that_cannot_be_checked_in_time_fails_the_attempt_and_is_not_paid_for_again() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    script = Script(call(f'{{"a": "{"a" * 44}!"}}'), call('{"a": "a"}'))
    with pytest.raises(ModelError, match="cannot be checked: it took longer than 2 s") as caught:
        await run(script.llm, output_schema=schema)
    assert (caught.value.type, caught.value.retryable) == ("output_schema", False)
    assert len(script.asked) == 1
