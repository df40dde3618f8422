"""Handlers for tests that record each of their effects outside the system.

Each effect is a line in the file that EFFECTS names, see tests/support/task_audit.py.
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
    """Record that this attempt did `what`; return a unique token."""
    token = secrets.token_hex(8)
    line = {"task": job.task_id, "attempt": job.attempt, "what": what, "token": token, "pid": os.getpid()}
    file = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")  # one write is one line, also with several writers
    finally:
        os.close(file)
    return token


async def work(job: Job) -> str:
    """Finish at once with the token of the effect as the result."""
    return write_effect(job, "done")


async def work_for_a_while(job: Job) -> str:
    """Finish after up to 0.2 s, so that the process can die in between."""
    await asyncio.sleep(random.uniform(0, 0.2))
    return write_effect(job, "done")


def work_in_thread(job: Job) -> str:
    """Do the same in a function that is not async."""
    return write_effect(job, "done")


async def fail_twice(job: Job) -> str:
    """Fail twice, and finish at the third attempt."""
    write_effect(job, "started")
    if job.attempt < 3:
        raise ConnectionError("overloaded")
    return write_effect(job, "done")


async def wait_for_gate(job: Job) -> str:
    """Finish as soon as the file in the inputs exists."""
    write_effect(job, "started")
    gate = Path(job.inputs["gate"])
    while not gate.exists():  # noqa: ASYNC110, ASYNC240 - who makes the file is another process
        await asyncio.sleep(0.01)
    return write_effect(job, "done")


def wait_for_gate_in_thread(job: Job) -> str:
    """Do the same in a function that is not async."""
    write_effect(job, "started")
    gate = Path(job.inputs["gate"])
    while not gate.exists():
        time.sleep(0.01)
    return write_effect(job, "done")


def fill(job: Job) -> str:
    """Return this many letters."""
    return "x" * int(job.inputs["size"])


def show_job(job: Job) -> dict[str, Any]:
    """Return the fields of the job."""
    return {
        "description": job.description,
        "inputs": job.inputs,
        "context": [{"id": above.id, "status": above.status, "result": above.result} for above in job.context],
        "instructions": job.instructions,
        "metadata": dict(job.metadata),
        "skills": list(job.skills),
    }


async def converse(job: Job) -> str:
    """Do a task when its gate exists; answer a message with the conversation, after the gate that it names."""
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
    """Finish with a usage and a cost, or fail with the inputs `badly`."""
    if job.inputs == "badly":
        raise ValueError("badly")
    return Answer("done", TOKENS)


async def echo(job: Job) -> str:
    """Answer a message with its text."""
    write_effect(job, "asked")
    return job.description
