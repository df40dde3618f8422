"""The measurements of one database: the rate of tasks, the time of a takeover, the duration of reads."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.support.memory import PeakMemory
from benchmarks.support.processes import PROGRAMS, BenchmarkFailed, Processes
from benchmarks.support.recorded_attempts import RecordedAttempts
from benchmarks.support.waiting import everyday
from broker.timestamps import Instant, now
from fluffle import Client, TaskHandle

FLUFFLE = str(PROGRAMS / "fluffle")
COORDINATOR = (FLUFFLE, "coordinator")
NO_OP = ("--handler", "benchmarks.systems.fluffle_handler:noop", "--slots", "200")
LEADS, STANDS_BY = "coordinator: ready, leading", "coordinator: ready, standing by"
TOP = 9  # priority of the tasks submitted here: above all waiting tasks
WARM = 500  # tasks completed before a coordinator is killed
PATIENCE = 60.0  # timeout in seconds

Query = Callable[[Client], Awaitable[object]]
Popen = subprocess.Popen[str]


@dataclass(frozen=True, slots=True)
class Pace:
    """Tasks per second: accepted without an LLM, completed without submissions, completed during submissions.

    `processor` is the processor time of the coordinator per completed task, in seconds.
    """

    accepted: float
    worked_off: float
    done: float
    processor: float


@dataclass(frozen=True, slots=True)
class Takeover:
    """Seconds from a kill -9 until the next coordinator leads, and until a task completes.

    `by` is the next leader: a standby, or a newly started coordinator.
    """

    by: str
    leads: float
    completes: float


@dataclass(frozen=True, slots=True)
class Read:
    """A read: the arguments of `fluffle`, and the equal query of a client."""

    arguments: tuple[str, ...]
    query: Query


@dataclass(frozen=True, slots=True)
class ReadTime:
    """Seconds that a read took, as a command and as a query, with or without an LLM at work."""

    arguments: tuple[str, ...]
    busy: bool
    command: float
    query: float


@dataclass(frozen=True, slots=True)
class Place:
    """A database in its folder, and the RabbitMQ to use.

    `llm` is the name of its LLM. RabbitMQ keeps the queues of an LLM, so that each place needs a separate one.
    """

    llm: str
    folder: Path
    url: str

    @property
    def database(self) -> Path:
        """The file of the database."""
        return self.folder / "fluffle.db"

    def pace(self, tasks: int, peak: PeakMemory) -> Pace:
        """Measure this many tasks that are completed later, and as many on arrival. Raises BenchmarkFailed."""
        with self._coordinator(peak) as (processes, coordinator), closing(RecordedAttempts(self.database)) as attempts:
            idle = _processor_time(coordinator)
            accepted = asyncio.run(self._submit(tasks))
            before = attempts.ended()
            with self._llm(processes):
                attempts.wait_for(before + tasks, PATIENCE + tasks / 100)
                worked_off = _rate(attempts.completions(before)[:tasks])
                start = now()
                asyncio.run(self._submit(tasks, wait=True))
                end = now()
            completions = attempts.completions(before)
            processor = (_processor_time(coordinator) - idle) / len(completions)
        done = sum(start <= at <= end for at in completions)
        return Pace(tasks / accepted, worked_off, done / ((end - start) / 1e6), processor)

    def takeovers(self, rounds: int, peak: PeakMemory) -> Iterator[Takeover]:
        """Kill the coordinator under load, twice a round. Raises BenchmarkFailed."""
        with (
            closing(RecordedAttempts(self.database)) as attempts,
            self._coordinator(peak) as (processes, leader),
            self._llm(processes),
        ):
            for by in ("a new start", "a standby") * rounds:
                attempts.wait_for(attempts.ended() + WARM, PATIENCE)
                if by == "a standby":
                    following = processes.start_until(COORDINATOR, STANDS_BY, PATIENCE)
                start = time.perf_counter()
                leader.kill()
                leader.wait()
                if by == "a new start":
                    following = processes.start(COORDINATOR)
                peak.watch(following.pid)
                ended = attempts.ended()
                processes.wait_for(following, LEADS, PATIENCE)
                leads = time.perf_counter() - start
                attempts.wait_for(ended + 1, PATIENCE)
                yield Takeover(by, leads, time.perf_counter() - start)
                leader = following

    def reads(self, reads: Sequence[Read], times: int, peak: PeakMemory) -> Iterator[ReadTime]:
        """Time each read several times without load, and again while an LLM works."""
        with self._coordinator(peak) as (processes, _):
            yield from self._read_all(reads, times, processes, busy=False)
            with self._llm(processes):
                yield from self._read_all(reads, times, processes, busy=True)

    def _read_all(self, reads: Sequence[Read], times: int, processes: Processes, *, busy: bool) -> Iterator[ReadTime]:
        for read in reads:
            for _ in range(times):
                start = time.perf_counter()
                processes.output_of((FLUFFLE, *read.arguments), PATIENCE)
                command = time.perf_counter() - start
                yield ReadTime(read.arguments, busy, command, asyncio.run(self._ask(read.query)))

    def beside(self, tasks: int, reading: Query, rounds: int, peak: PeakMemory) -> Iterator[tuple[float, float]]:
        """Return tasks per second completed on arrival: alone and while a client reads, in turn."""
        with self._coordinator(peak) as (processes, _), self._llm(processes):
            asyncio.run(self._submit(WARM, wait=True))
            for number in range(rounds):
                turns = (None, reading) if number % 2 else (reading, None)
                rates = {turn: tasks / asyncio.run(self._submit_beside(tasks, turn)) for turn in turns}
                yield rates[None], rates[reading]

    def queries(self, queries: Sequence[Query], times: int, peak: PeakMemory) -> list[list[float]]:
        """Return the seconds of each query without load."""

        async def ask() -> list[list[float]]:
            return [[await self._ask(query) for _ in range(times)] for query in queries]

        with self._coordinator(peak):
            return asyncio.run(ask())

    # -- what runs -------------------------------------------------------------------------------------------------

    @contextmanager
    def _coordinator(self, peak: PeakMemory) -> Iterator[tuple[Processes, Popen]]:
        """Start a leading coordinator; stop it and all other processes at the end."""
        self.folder.mkdir(exist_ok=True)
        environment = {"FLUFFLE_AMQP_URL": self.url, "FLUFFLE_STATE_DIR": str(self.folder)}
        with Processes(self.folder, environment) as processes:
            leader = processes.start_until(COORDINATOR, LEADS, PATIENCE)
            peak.watch(leader.pid)
            yield processes, leader

    @contextmanager
    def _llm(self, processes: Processes) -> Iterator[None]:
        """Start an LLM; at the end it leaves, and nothing of it remains in RabbitMQ."""
        worker = processes.start_until((FLUFFLE, "worker", self.llm, *NO_OP), f"{self.llm}: ready", PATIENCE)
        yield
        worker.terminate()
        worker.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while asyncio.run(self._llm_state()) != "offline":
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{self.llm} has left, and is not offline")

    # -- as a client -----------------------------------------------------------------------------------------------

    async def _submit(self, tasks: int, *, wait: bool = False) -> float:
        """Submit this many tasks; return the seconds until all are accepted, or completed."""
        submissions = (everyday(number, priority=TOP) for number in range(tasks))  # as those that wait
        async with Client(self.url) as client:
            start = time.perf_counter()
            handles = [handle async for handle in client.submit_many(submissions)]
            if wait:
                for handle in handles:
                    assert isinstance(handle, TaskHandle)
                    await handle.result(PATIENCE + tasks / 100)
            return time.perf_counter() - start

    async def _submit_beside(self, tasks: int, reading: Query | None) -> float:
        """Return the seconds until this many tasks are completed."""
        async with Client(self.url) as client:
            beside = asyncio.ensure_future(reading(client)) if reading else None
            try:
                return await self._submit(tasks, wait=True)
            finally:
                if beside:
                    beside.cancel()

    async def _ask(self, query: Query) -> float:
        """Return the seconds of a query."""
        async with Client(self.url) as client:
            start = time.perf_counter()
            await query(client)
            return time.perf_counter() - start

    async def _llm_state(self) -> str:
        async with Client(self.url) as client:
            return (await client.llm(self.llm)).state


def _processor_time(process: Popen) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def _rate(moments: Sequence[Instant]) -> float:
    """Return the rate per second between the first and the last of these times."""
    first, last = moments[0], moments[-1]
    if first == last:
        raise BenchmarkFailed(f"{len(moments):,} tasks are too few: they were completed all at once")
    return sum(moment > first for moment in moments) / ((last - first) / 1e6)
