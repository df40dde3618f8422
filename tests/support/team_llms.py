"""LLMs that work together: they vote, write drafts and review according to the inputs of the task."""

import asyncio
from pathlib import Path
from typing import Any

from workers.models.base import Job


async def member(job: Job) -> Any:
    """Return the value of the LLM's name (its instructions) in the inputs, after the gate exists.

    In a vote, the value is the choice. In a review, a draft that contains the value is approved.
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
