"""LLMs that work together: they vote, write drafts and review as the inputs of the task say."""

import asyncio
from pathlib import Path
from typing import Any

from workers.models.base import Job


async def member(job: Job) -> Any:
    """What its name, which is its instructions, stands for in the inputs; a gate is waited for before.

    Asked for a vote, that is the choice. Asked for a verdict, it approves a draft with the word that it wants.
    """
    name, orders = job.instructions or "", job.inputs
    if gate := orders.get("gates", {}).get(name):
        while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - who makes the file is another process
            await asyncio.sleep(0.01)
    asked = (job.output_schema or {}).get("properties", {})
    if "choice" in asked:
        return {"choice": orders[name], "reason": f"{name} likes it"}
    if "approved" in asked:
        draft = str(job.context[-1].result)
        good = orders[name] in draft
        return {"approved": good, "remarks": "" if good else f"say {orders[name]}", "score": 1.0 if good else 0.2}
    if job.context and orders.get("judge") == name:
        return sorted(str(above.result) for above in job.context)
    _, sent_back, remarks = job.description.partition("The remarks:\n")
    return f"{orders[name]}, {remarks.splitlines()[0]}" if sent_back else orders[name]
