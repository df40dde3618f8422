"""Tasks in every state, made at random but the same in every run."""

import dataclasses
import random

from broker.protocol.status import FINAL, Outcome, Status
from broker.protocol.worker_reports import Usage
from broker.timestamps import Instant, Micros
from coordinator.core.tasks.task import Attempt, Task
from tests.support.core_driver import T0
from tests.support.stored_tasks import ATTEMPT, a_task

LABELS = ["red", "blue", "green"]
LLMS = ["atlas", "boreas", "clio"]
WORDS = ["Summarise", "the", "50%", "log_file", "über", "REVIEW"]


def many_tasks(count: int) -> list[Task]:
    """Tasks of all kinds, each as it could stand; the same ones every time."""
    chance = random.Random(7)
    return [_any_task(number, chance) for number in range(1, count + 1)]


def _any_task(number: int, chance: random.Random) -> Task:
    status = chance.choice([s for s in Status if s is not Status.INPUT_REQUIRED])
    tried = 0 if status in (Status.BLOCKED, Status.PENDING) else chance.randint(1, 3)
    at = T0 + number * 1_000_000
    task = a_task(
        number,
        status=status,
        submitted_at=Instant(at),
        description=" ".join(chance.choices(WORDS, k=3)),
        labels=chance.sample(LABELS, chance.randint(0, 3)),
        inputs={"text": "x" * chance.randint(0, 50)},
        result={"answer": number} if status is Status.COMPLETED else None,
        attempt=tried,
        starts=tried,
    )
    running = status in (Status.ASSIGNED, Status.IN_PROGRESS)
    task.attempts = [_any_attempt(n, at, chance) for n in range(1, tried + (0 if running else 1))]
    if tried:
        task.llm, task.instance = chance.choice(LLMS), "i1"
        task.ready_at, task.assigned_at = Instant(at + 5), Instant(at + 7)
        task.started_at = Instant(at + chance.randint(8, 3_000_000)) if chance.random() < 0.9 else None
    if status in FINAL:
        task.finished_at = Instant(at + chance.randint(3_000_001, 9_000_000))
    if status is Status.COMPLETED:
        task.duration = Micros(chance.randint(0, 10**7)) if chance.random() < 0.9 else None
        known = [chance.choice([None, chance.randint(0, 10_000)]) for _ in range(2)]
        task.usage = Usage(input_tokens=known[0], output_tokens=known[1], cost_usd=chance.choice([None, 0.25, 0.5]))
    return task


def _any_attempt(number: int, at: int, chance: random.Random) -> Attempt:
    return dataclasses.replace(
        ATTEMPT,
        attempt=number,
        llm=chance.choice(LLMS),
        outcome=chance.choice([outcome for outcome in Outcome if outcome is not Outcome.MOVED]),
        finished_at=Instant(at + number),
        duration=chance.choice([None, Micros(chance.randint(0, 10**7))]),
    )
