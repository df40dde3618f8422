"""LLMs for tests that use what a desk offers."""

import asyncio
from typing import Any

from tests.support.handlers import write_effect
from workers.models.base import Job
from workers.tools import BlockingDesk, Desk, ToolError


async def hand_on(job: Job, desk: Desk) -> list[str]:
    """Hands on to the first on the way, and that one to the next; the result names all of them."""
    way = job.inputs["way"]
    if not way:
        return []
    rest = await desk.delegate(f"go on to {way[0]}", assignee=way[0], inputs={"way": way[1:]})
    return [way[0], *rest]


def hand_on_in_thread(job: Job, desk: BlockingDesk) -> list[str]:
    """The same as a function that is not async."""
    way = job.inputs["way"]
    if not way:
        return []
    return [way[0], *desk.delegate(f"go on to {way[0]}", assignee=way[0], inputs={"way": way[1:]})]


async def ask(job: Job, desk: Desk) -> dict[str, Any]:
    """Asks a person all questions of the inputs, one after the other."""
    write_effect(job, "started")
    return {question: await desk.ask_person(question) for question in job.inputs["questions"]}


async def spread(job: Job, desk: Desk) -> Any:
    """Hands on to as many as the inputs say, on as many levels; the last ones wait for ever."""
    write_effect(job, "started")
    if not job.inputs:
        await asyncio.Event().wait()
    wide, *deeper = job.inputs
    return await asyncio.gather(*(desk.delegate(f"part {n} of {job.description}", inputs=deeper) for n in range(wide)))


async def fail_once(job: Job, desk: Desk) -> str:
    """Hands on, then fails in the first attempt; returns what came of what it handed on."""
    part = await desk.delegate("a part", assignee="hand", inputs={"gate": None})
    if job.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return str(part)


async def count(job: Job) -> str:
    """Returns the token of its effect."""
    return write_effect(job, "done")


async def consult(job: Job, desk: Desk) -> Any:
    """Does with its desk what the inputs say, one after the other; returns what came of it, or why it did not."""
    told = []
    for tool, arguments in job.inputs:
        try:
            told.append(await getattr(desk, tool)(**arguments))
        except ToolError as error:
            told.append(f"ToolError: {error}")
    return told
