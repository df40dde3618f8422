"""LLMs for tests that use their tools."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.support.recording_llms import write_effect
from workers.models.base import Job
from workers.tools.toolbox import SyncToolbox, Toolbox, ToolError


async def hand_on(job: Job, tools: Toolbox) -> list[str]:
    """Delegate to the first LLM on the way, which delegates to the next; the result names all of them."""
    way = job.inputs["way"]
    if not way:
        return []
    rest = await tools.delegate(f"go on to {way[0]}", assignee=way[0], inputs={"way": way[1:]})
    return [way[0], *rest]


def hand_on_in_thread(job: Job, tools: SyncToolbox) -> list[str]:
    """Do the same in a function that is not async."""
    way = job.inputs["way"]
    if not way:
        return []
    return [way[0], *tools.delegate(f"go on to {way[0]}", assignee=way[0], inputs={"way": way[1:]})]


async def hand_on_as_model(job: Job, tools: Toolbox) -> list[str]:
    """Do the same as a pydantic-ai model that calls its tools."""
    from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

    from workers.models.provider.llm import PydanticAILLM

    way = job.inputs["way"]

    async def reply(messages: list[Any], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        returned = [part.content for part in messages[-1].parts if part.part_kind == "tool-return"]
        if way and not returned:
            part = {"description": f"go on to {way[0]}", "assignee": way[0], "inputs": {"way": way[1:]}}
            yield {0: DeltaToolCall(name="delegate", json_args=json.dumps(part), tool_call_id="c")}
        else:
            yield json.dumps([way[0], *returned[0]] if way else [])

    model = PydanticAILLM("function", FunctionModel(stream_function=reply))
    answer = await model.run(job, lambda text: None, tools)
    return list(json.loads(answer.result))


async def ask(job: Job, tools: Toolbox) -> dict[str, Any]:
    """Ask a person all questions of the inputs, one after the other."""
    write_effect(job, "started")
    return {question: await tools.ask_person(question) for question in job.inputs["questions"]}


async def spread(job: Job, tools: Toolbox) -> Any:
    """Delegate to this many tasks on this many levels; the last ones wait for ever."""
    write_effect(job, "started")
    if not job.inputs:
        await asyncio.Event().wait()
    wide, *deeper = job.inputs
    return await asyncio.gather(*(tools.delegate(f"part {n} of {job.description}", inputs=deeper) for n in range(wide)))


async def consult(job: Job, tools: Toolbox) -> Any:
    """Make the tool calls of the inputs in order; return their results or errors."""
    told = []
    for tool, arguments in job.inputs:
        try:
            told.append(await getattr(tools, tool)(**arguments))
        except ToolError as error:
            told.append(f"ToolError: {error}")
    return told
