"""A storm: a steady load of tasks, and one fault after the other, until there were enough of both."""

import asyncio
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from broker.errors import NoAnswer
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from fluffle import Client, TaskHandle, TaskRejected
from tests.programs.storm.cast import LEASE, Cast, cast_on, settings
from tests.programs.storm.faults import BESIDES, FAULTS, Fault, why_impossible
from tests.support.postgres import Postgres
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on
from tests.support.task_audit import Ledger

UNDER_WAY = 150  # tasks
AT_ONCE = 25  # tasks of one submission
ATTEMPTS = 100
PAIRS = 0.5  # share of the combinable faults that happen together with another one


@dataclass
class Outcome:
    """The outcome of a storm. `recoveries` are in seconds: from the end of a fault until its tasks are done."""

    lease: float
    tasks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    recoveries_by_fault: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    repeated: int = 0
    endings: dict[str, int] = field(default_factory=dict)  # attempts by outcome
    pairs: int = 0

    def judged(self) -> dict[str, int]:
        """Count the violations of each kind."""
        lost = sum("not in the database" in it or "not over" in it or "after" in it for it in self.violations)
        twice = sum("not recorded once" in it or "announced" in it for it in self.violations)
        return {"lost": lost, "recorded twice": twice, "other violations": len(self.violations) - lost - twice}

    def recovery(self, percent: int) -> float:
        """Return a percentile of the recoveries."""
        return quantiles(self.recoveries, n=100)[percent - 1] if len(self.recoveries) > 1 else sum(self.recoveries)


@dataclass(frozen=True)
class Plan:
    """The size of a storm: at least this many tasks and faults, but no longer than this many seconds.

    `only` names faults; empty means all. `altered` applies to every process, see tests/support/altered_program.py.
    """

    tasks: int
    faults: int
    seconds: float
    patience: float
    seed: int
    only: Sequence[str] = ()
    altered: Sequence[str] = ()
    lease: float = LEASE


def run_storm(rabbitmq: NodeInfo, plan: Plan, *, server: Postgres | None = None) -> Outcome:
    """Run one storm on a separate site, with a new database of `server` or with SQLite."""
    with (
        tempfile.TemporaryDirectory(prefix="storm-") as folder,
        site_on(rabbitmq, Path(folder), server=server, env=settings(plan.lease)) as site,
    ):
        ledger = Ledger(site)
        with cast_on(site, ledger, plan.altered) as cast:
            storm = Storm(cast, ledger, seed=plan.seed, patience=plan.patience, faults=chosen(plan.only))
            return asyncio.run(storm.run(tasks=plan.tasks, faults=plan.faults, seconds=plan.seconds))


class Storm:
    """One storm over a cast. After `patience` seconds a task counts as lost."""

    def __init__(self, cast: Cast, ledger: Ledger, *, seed: int, patience: float, faults: dict[Fault, int]) -> None:
        self._cast = cast
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._patience = patience
        self._faults = {fault: weight for fault, weight in faults.items() if not why_impossible(fault, cast)}
        self._open: dict[str, asyncio.Task[None]] = {}
        self._over = False
        self.outcome = Outcome(
            cast.lease, left_out=[f"{it.__name__}, {why}" for it in faults if (why := why_impossible(it, cast))]
        )

    async def run(self, *, tasks: int, faults: int, seconds: float) -> Outcome:
        """Run until there were this many tasks and faults, or the time is over; then judge."""
        end = time.monotonic() + seconds
        async with Client(self._cast.site.url, answer_timeout=self._patience) as client:
            load = asyncio.create_task(self._load(client))
            try:
                while time.monotonic() < end and not self.outcome.violations and not load.done():
                    if self.outcome.tasks >= tasks and self.outcome.faults.total() >= faults:
                        break
                    await self._strike()
            finally:
                self._over = True
                await load
                await self._recovered(set(self._open.values()))
        if not self.outcome.violations:
            await asyncio.to_thread(self._cast.site.drain, within=self._patience)
            self.outcome.violations += [f"refused: {it}" for it in self._ledger.refused()]
            self.outcome.violations += self._ledger.problems()
        self.outcome.repeated = self._ledger.done() - self.outcome.tasks
        self.outcome.endings = dict(self._cast.site.select("select outcome, count(*) from attempts group by outcome"))
        return self.outcome

    async def _strike(self) -> None:
        faults = self._next_faults()
        met = set(self._open.values())
        chances = [random.Random(self._chance.random()) for _ in faults]
        happening = [
            asyncio.to_thread(fault, self._cast, chance) for fault, chance in zip(faults, chances, strict=True)
        ]
        await asyncio.gather(*happening)
        healed = time.monotonic()
        await self._recovered(met)
        self.outcome.faults.update(fault.__name__ for fault in faults)
        self.outcome.pairs += len(faults) - 1
        self.outcome.recoveries.append(time.monotonic() - healed)
        named = " + ".join(fault.__name__ for fault in faults)
        self.outcome.recoveries_by_fault.setdefault(named, []).append(round(self.outcome.recoveries[-1], 2))
        await asyncio.sleep(self._chance.uniform(0, 0.5))

    def _next_faults(self) -> list[Fault]:
        """One fault, or two that happen at the same time."""
        first = self._chance.choices([*self._faults], [*self._faults.values()])[0]
        besides = [fault for fault in BESIDES.get(first, ()) if fault in self._faults]
        return [first, self._chance.choice(besides)] if besides and self._chance.random() < PAIRS else [first]

    async def _recovered(self, met: set["asyncio.Task[None]"]) -> None:
        if met:
            await asyncio.wait(met)

    async def _load(self, client: Client) -> None:
        numbers = itertools.count()
        try:
            while not self._over:
                while len(self._open) > UNDER_WAY - AT_ONCE:
                    await asyncio.wait(self._open.values(), return_when=asyncio.FIRST_COMPLETED)
                named = (f"storm-{next(numbers)}" for _ in range(AT_ONCE))
                some = [Submission(description="work", id=task_id, max_attempts=ATTEMPTS) for task_id in named]
                async for handle in client.submit_many(some):
                    if isinstance(handle, TaskRejected):
                        raise handle
                    self._ledger.note(handle.id)
                    self._open[handle.id] = asyncio.create_task(self._follow(handle))
        except (TaskRejected, NoAnswer) as error:
            self.outcome.violations.append(f"a good task was not taken: {error}")

    async def _follow(self, handle: TaskHandle) -> None:
        try:
            view = await handle.end(self._patience)
        except TimeoutError as error:
            self.outcome.violations.append(str(error))
        else:
            self.outcome.tasks += 1
            if view.status is not Status.COMPLETED:
                self.outcome.violations.append(f"task {view.id} was {view.status}: {view.error}")
        finally:
            del self._open[handle.id]


def chosen(names: Sequence[str]) -> dict[Fault, int]:
    """Return the faults with these names, or all."""
    by_name = {fault.__name__: fault for fault in FAULTS}
    return {by_name[name]: FAULTS[by_name[name]] for name in names} if names else FAULTS
