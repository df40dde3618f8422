"""Simulated LLMs around the real core: what they say goes into transactions, what the core commands is done. No I/O."""

from functools import partial
from heapq import heappop, heappush
from typing import Any

from benchmarks.simulation.nothing_stored import PausesStored
from benchmarks.simulation.outcome import Ran
from benchmarks.simulation.scenarios import FAILS_AFTER, NEVER, Case, Job, Worker
from broker.protocol.task_requests import ManageLLM, Submission
from broker.protocol.worker_reports import Claim, Failure, Presence, Result, RunningTask
from broker.timestamps import Instant, seconds, to_datetime
from coordinator.core.commands import SendAssignment, SendStop
from coordinator.core.events import Claimed, Event, Heartbeat, ManageRequested, Reported, Submitted, Tick
from coordinator.core.machine import Machine, MachineOptions
from coordinator.core.transaction import transaction
from coordinator.policy_loader import load_policy

LEASE = 15.0  # seconds, as by default
BEAT = LEASE / 3
TICK = 0.5  # seconds between looks at the time while tasks wait
DELAY = 0.005  # seconds that a message takes
START = Instant(1_800_000_000_000_000)
PRIORITY = 4
MAX_ATTEMPTS = 50  # no task is to fail for good


class Simulation:
    """One case under one policy."""

    def __init__(self, case: Case, policy: str) -> None:
        self._jobs = {job.id: job for job in case.jobs}
        self._workers = {worker.name: worker for worker in case.workers}
        self._held: dict[str, dict[str, int]] = {worker.name: {} for worker in case.workers}
        options = MachineOptions(seconds(LEASE), partial(load_policy, policy), window=10 * len(case.jobs))
        self._machine = Machine(options)
        self._stored = PausesStored()
        self._agenda: list[tuple[float, int, Any]] = []
        self._entries = 0
        self._ran: dict[str, Ran] = {}
        self.begun: list[tuple[str, str]] = []  # the task and the LLM of each attempt
        for worker in case.workers:
            self._plan(0.0, worker)
            if worker.closed_at < NEVER:
                self._plan(worker.closed_at, ManageRequested(ManageLLM(llm=worker.name, paused=True)))
                self._plan(worker.opens_at, ManageRequested(ManageLLM(llm=worker.name, paused=False)))
        for job in case.jobs:
            self._plan(job.at, job)

    def run(self) -> dict[str, Ran]:
        """When each task ran, in seconds."""
        ticked = 0.0
        left = len(self._jobs)
        while left:
            now = self._agenda[0][0]
            if len(self._machine.state.ready) and ticked + TICK < now:
                ticked = max(ticked + TICK, now - TICK)
                self._handle([Tick()], ticked)
                continue
            ticked = max(ticked, now) if not len(self._machine.state.ready) else ticked
            happened: list[Event] = []
            while self._agenda and self._agenda[0][0] == now:
                _, _, entry = heappop(self._agenda)
                match entry:
                    case Job():
                        happened.append(_submitted(entry))
                    case Worker():
                        happened += self._beat(entry, now)
                    case ManageRequested():
                        happened.append(entry)
                    case Claimed(llm, claim):
                        self._start(self._workers[llm], claim, now)
                        happened.append(entry)
                    case Reported(llm, result):
                        if self._held[llm].get(result.task_id) != result.attempt:
                            continue  # stopped
                        del self._held[llm][result.task_id]
                        happened.append(entry)
                        if result.outcome == "completed":
                            self._ran[result.task_id] = Ran(self._ran[result.task_id].start, now - DELAY, llm)
                            left -= 1
            self._handle(happened, now)
        return self._ran

    def _handle(self, events: list[Event], at: float) -> None:
        now = Instant(START + seconds(at))
        with transaction(self._machine, self._stored, events, now) as effects:
            self._stored.keep(effects.changes)
        for command in effects.commands:
            if isinstance(command, SendAssignment):
                claim = Claim(task_id=command.task_id, attempt=command.attempt, instance="i")
                if at + DELAY < self._workers[command.llm].dies_at:
                    self._plan(at + DELAY, Claimed(command.llm, claim))
            elif isinstance(command, SendStop):
                self._held[command.llm].pop(command.task_id, None)

    def _beat(self, worker: Worker, now: float) -> list[Event]:
        if now >= worker.dies_at:
            return [Tick()]
        self._plan(now + BEAT, worker)
        tasks = [RunningTask(task_id=task_id, attempt=attempt) for task_id, attempt in self._held[worker.name].items()]
        skills = dict.fromkeys(worker.skills, 1.0)
        presence = Presence(
            name=worker.name,
            instance="i",
            slots=worker.slots,
            skills=skills,
            tasks=tasks,
            labels=list(worker.labels),
            price=worker.price,
            reserve=worker.reserve,
        )
        return [Heartbeat(presence), Tick()]

    def _start(self, worker: Worker, claim: Claim, now: float) -> None:
        self._held[worker.name][claim.task_id] = claim.attempt
        self._ran[claim.task_id] = Ran(now, NEVER)
        self.begun.append((claim.task_id, worker.name))
        fails = worker.failing(claim.task_id, claim.attempt)
        end = now + FAILS_AFTER if fails else worker.finish(now, self._jobs[claim.task_id].work)
        if end < NEVER:
            result = Result(
                task_id=claim.task_id,
                attempt=claim.attempt,
                instance="i",
                outcome="failed" if fails else "completed",
                error=Failure(type="provider_error", message="500") if fails else None,
                duration=end - now,
            )
            self._plan(end + DELAY, Reported(worker.name, result))

    def _plan(self, at: float, entry: object) -> None:
        self._entries += 1
        heappush(self._agenda, (at, self._entries, entry))


def _submitted(job: Job) -> Submitted:
    due = None if job.due is None else to_datetime(START + seconds(job.due))
    spec = Submission(
        description="Answer",
        inputs="x" * job.characters,
        skills=list(job.skills),
        labels=list(job.labels),
        due=due,
        max_attempts=MAX_ATTEMPTS,
    )
    return Submitted(job.id, spec, PRIORITY)
