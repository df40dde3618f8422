"""A model sees the tools that it may use, and is told what they cannot do."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from pydantic_ai import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from broker.protocol.assignments import AnsweredQuestion, Assignment
from broker.protocol.task_requests import Tool
from workers.execution.suspensions import Suspensions
from workers.models.base import Job, ModelError
from workers.models.provider.llm import LIMITS, PydanticAILLM
from workers.tools.toolbox import Toolbox, ToolServices


def toolbox(*tools: Tool) -> Toolbox:
    """A toolbox without a worker: what a person has answered before is all that it can get."""
    answers = [AnsweredQuestion(question="Which colour?", answer="blue")]
    assignment = Assignment(task_id="t-1", attempt=2, description="paint", answers=answers)
    services = ToolServices("ada", frozenset(tools), cast(Any, None), cast(Any, None))
    return Toolbox(services, assignment, cast(Suspensions, None), priority=None)


class Asking:
    """A model that asks a person a question until it is answered, and then says the answer."""

    def __init__(self, *questions: str) -> None:
        self._questions = list(questions)
        self.told: list[str] = []
        self.info: AgentInfo | None = None

    @property
    def llm(self) -> PydanticAILLM:
        return PydanticAILLM("test:asking", FunctionModel(stream_function=self._reply))

    async def _reply(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        self.info = info
        self.told += [str(part.content) for part in messages[-1].parts if part.part_kind == "tool-return"]
        if self._questions:
            question = self._questions.pop(0)
            yield {0: DeltaToolCall(name="ask_person", json_args=f'{{"question": "{question}"}}', tool_call_id="c")}
        else:
            yield self.told[-1]


async def test_a_model_uses_a_tool_and_goes_on_with_what_it_gives() -> None:
    answer = await Asking("Which colour?").llm.run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person"))
    assert answer.result == "blue"


async def test_a_model_receives_the_reason_for_a_failed_tool_and_goes_on() -> None:
    model = Asking(" ", " ", " ", "Which colour?")
    answer = await model.llm.run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person"))
    assert answer.result == "blue"
    assert all("the question is empty" in told for told in model.told[:3])


async def test_a_model_receives_the_descriptions_of_its_tools() -> None:
    model = Asking("Which colour?")
    await model.llm.run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person", "delegate"))
    assert model.info is not None
    tools = {tool.name: tool for tool in model.info.function_tools}
    assert tools.keys() == {"ask_person", "delegate"}
    assert (tools["delegate"].description or "").startswith("Give a part of your task to another LLM")
    parameters = tools["delegate"].parameters_json_schema["properties"]
    assert "name of the LLM" in parameters["assignee"]["description"]
    assert tools["delegate"].parameters_json_schema["required"] == ["description"]


async def test_a_model_without_an_end_fails() -> None:
    model = Asking(*[" "] * ((LIMITS.request_limit or 0) + 1))
    with pytest.raises(ModelError) as caught:
        await model.llm.run(Job("t-1", 2, "paint"), lambda text: None, toolbox("ask_person"))
    assert (caught.value.type, caught.value.retryable) == ("too_many_steps", False)
