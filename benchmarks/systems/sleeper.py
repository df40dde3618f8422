"""The handler of a worker that sleeps according to its speed."""

import asyncio
import os

from workers.models.base import Job

SPEED = float(os.environ.get("FLUFFLE_BENCH_SPEED", "1"))


async def work(job: Job) -> None:
    """Sleep for the seconds of work that the task's metadata names, at this worker's speed."""
    await asyncio.sleep(float(job.metadata["work"]) / SPEED)
