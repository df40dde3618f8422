"""LLMs for tests: functions that leave a trace outside the system for everything that they do.

The trace is a line in the file that EFFECTS names, see tests/support/task_audit.py.
"""

import asyncio
import json
import os
import random
import secrets
import time
from pathlib import Path
from typing import Any

from workers.models.base import Answer, Job, Usage


def write_effect(job: Job, what: str) -> str:
    """Log that this attempt did `what`; returns a token that no other line has."""
    token = secrets.token_hex(8)
    line = {"task": job.task_id, "attempt": job.attempt, "what": what, "token": token, "pid": os.getpid()}
    file = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")  # one write is one line, whoever else writes
    finally:
        os.close(file)
    return token


async def work(job: Job) -> str:
    """Done at once; the result is the token of its effect."""
    return write_effect(job, "done")


async def work_for_a_while(job: Job) -> str:
    """Done after up to 0.2 s, so that there is a middle to die in."""
    await asyncio.sleep(random.uniform(0, 0.2))
    return write_effect(job, "done")


def work_in_thread(job: Job) -> str:
    """The same as a function that is not async."""
    return write_effect(job, "done")


async def fail_twice(job: Job) -> str:
    """Done at the third attempt."""
    write_effect(job, "started")
    if job.attempt < 3:
        raise ConnectionError("overloaded")
    return write_effect(job, "done")


async def wait_for_gate(job: Job) -> str:
    """Done as soon as the file that the inputs name exists."""
    write_effect(job, "started")
    gate = Path(job.inputs["gate"])
    while not gate.exists():  # noqa: ASYNC110, ASYNC240 - who makes the file is another process
        await asyncio.sleep(0.01)
    return write_effect(job, "done")


def wait_for_gate_in_thread(job: Job) -> str:
    """The same as a function that is not async."""
    write_effect(job, "started")
    gate = Path(job.inputs["gate"])
    while not gate.exists():
        time.sleep(0.01)
    return write_effect(job, "done")


def fill(job: Job) -> str:
    """As many letters as the inputs say."""
    return "x" * int(job.inputs["size"])


def show_job(job: Job) -> dict[str, Any]:
    """What the job brought."""
    return {
        "description": job.description,
        "inputs": job.inputs,
        "context": [{"id": above.id, "status": above.status, "result": above.result} for above in job.context],
        "instructions": job.instructions,
        "metadata": dict(job.metadata),
        "skills": list(job.skills),
    }


async def converse(job: Job) -> str:
    """Tasks wait for their gate. A message is answered with what was said before; it waits for a gate that it names."""
    if job.message is None:
        return await wait_for_gate(job)
    write_effect(job, "asked")
    if (gate := job.metadata.get("gate")) is not None:
        while not Path(str(gate)).exists():  # noqa: ASYNC110, ASYNC240 - who makes the file is another process
            await asyncio.sleep(0.01)
    if job.description == "fail":
        raise ValueError("no ink")
    so_far = [f"{it.sender}: {it.content}" for it in job.conversation]
    return " | ".join([*so_far, f"answering {job.description}"])


TOKENS = Usage(input_tokens=1_000, output_tokens=10, cost_usd=0.25)
COST = 0.25


def paid(job: Job) -> Answer:
    """Done at a price, or, with the inputs `badly`, not done."""
    if job.inputs == "badly":
        raise ValueError("badly")
    return Answer("done", TOKENS)


async def echo(job: Job) -> str:
    """A message is answered with what it says."""
    write_effect(job, "asked")
    return job.description
