"""An LLM that follows the inputs of its task."""

import asyncio
from pathlib import Path
from typing import Any

from workers.models.base import Answer, Job, ModelError, Usage
from workers.tools.toolbox import Toolbox


async def obey(job: Job, tools: Toolbox) -> Answer:
    """Wait until the file `until` exists, ask a person `ask`, fail with `fail`, answer `answer` or the description.

    When it is cancelled while it waits, it creates the file `stopped`.
    """
    orders: dict[str, Any] = job.inputs if isinstance(job.inputs, dict) else {}
    if "until" in orders:
        try:
            while not Path(orders["until"]).exists():  # noqa: ASYNC110, ASYNC240 - a test is another process
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            if "stopped" in orders:
                Path(orders["stopped"]).touch()  # noqa: ASYNC240 - likewise
            raise
    if "ask" in orders:
        return Answer(await tools.ask_person(orders["ask"], orders.get("choices", ())))
    if "fail" in orders:
        raise ModelError("broken", orders["fail"], retryable=False)
    return Answer(orders.get("answer", job.description), Usage(input_tokens=3, output_tokens=5))
