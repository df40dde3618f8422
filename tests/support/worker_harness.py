"""Workers in this process for tests that play the coordinator, and an LLM that does what a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.protocol.primitives import MAX_BODY_BYTES
from broker.settings import Settings
from tests.support.fake_coordinator import WITHIN
from workers.app import build_worker
from workers.models.base import Answer, Job, TextCallback
from workers.tools.toolbox import Toolbox
from workers.worker import Worker


class Scripted:
    """An LLM that does what the test tells it for a task: by default it answers at once with the description."""

    model = "scripted"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.running = 0
        self.most_running = 0
        self._plays: dict[str, Callable[[Job, TextCallback], Any]] = {}

    def plays(self, task_id: str, play: Callable[[Job, TextCallback], Any]) -> None:
        """For that task, await `play(job, progress)`; what it returns is the answer."""
        self._plays[task_id] = play

    def waits(self, *task_ids: str) -> asyncio.Event:
        """These tasks wait for the event; then they answer with "done"."""
        event = asyncio.Event()

        async def play(job: Job, progress: TextCallback) -> Answer:
            await event.wait()
            return Answer("done")

        for task_id in task_ids:
            self.plays(task_id, play)
        return event

    async def run(self, job: Job, progress: TextCallback, tools: Toolbox | None = None) -> Answer:
        self.jobs.append(job)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if play := self._plays.get(job.task_id):
                answer = await play(job, progress)
                assert isinstance(answer, Answer)
                return answer
            return Answer(job.description)
        finally:
            self.running -= 1


async def for_ever(job: Job, progress: TextCallback) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


class Workers:
    """Makes workers of one LLM that share a state folder."""

    def __init__(self, url: str, name: str, llm: Scripted, state_dir: Path) -> None:
        self._url = url
        self._name = name
        self._llm = llm
        self.state_dir = state_dir

    def make(
        self, *, url: str | None = None, lease: float = 15, max_body: int = MAX_BODY_BYTES, **options: Any
    ) -> Worker:
        arguments: dict[str, Any] = {"name": self._name, "llm": self._llm} | options
        spool_dir = self.state_dir / "spool" / arguments["name"]
        heartbeat_interval = Settings(lease=lease).beat
        return build_worker(
            url=url or self._url,
            spool_dir=spool_dir,
            heartbeat_interval=heartbeat_interval,
            max_body=max_body,
            **arguments,
        )

    @asynccontextmanager
    async def one(self, **options: Any) -> AsyncIterator[Worker]:
        """A worker that is ready; cancelled at the end if it has not left by itself."""
        async with at_work(self.make(**options)) as (worker, _):
            yield worker

    def spooled(self) -> list[bytes]:
        folder = self.state_dir / "spool" / self._name
        return [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """The worker, ready, and the task that runs it."""
    running = asyncio.create_task(worker.run())
    try:
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait([ready, running], timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
        assert worker.ready.is_set(), "the worker did not get ready"
        yield worker, running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
