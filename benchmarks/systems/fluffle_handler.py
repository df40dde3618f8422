"""The no-op that Fluffle's workers run."""

from typing import Any

from workers.models.base import Job


async def noop(job: Job) -> Any:
    """Do nothing and return what came in."""
    return job.inputs
