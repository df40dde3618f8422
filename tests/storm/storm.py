"""A storm: a steady load of tasks, and one fault after the other, until enough of both has been seen."""

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import quantiles

from broker.errors import NoAnswer
from broker.messages import Status, Submission
from fluffle import Client, TaskHandle, TaskRejected
from tests.storm.cast import Cast
from tests.storm.faults import FAULTS, Fault
from tests.support.ledger import Ledger

UNDER_WAY = 150  # tasks
AT_ONCE = 25  # tasks of one submission
ATTEMPTS = 100


@dataclass
class Outcome:
    """What a storm has seen. `recoveries` are in seconds: from the end of a fault until all is done that it met."""

    tasks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    repeated: int = 0

    def recovery(self, percent: int) -> float:
        """That percentile of the recoveries."""
        return quantiles(self.recoveries, n=100)[percent - 1] if len(self.recoveries) > 1 else sum(self.recoveries)


class Storm:
    """One storm over a cast. `patience` in seconds is how long anything may take before it counts as lost."""

    def __init__(self, cast: Cast, ledger: Ledger, *, seed: int, patience: float, faults: dict[Fault, int]) -> None:
        self._cast = cast
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._patience = patience
        self._faults = faults
        self._open: dict[str, asyncio.Task[None]] = {}
        self._over = False
        self.outcome = Outcome()

    async def run(self, *, tasks: int, faults: int, seconds: float) -> Outcome:
        """Rage until there were so many tasks and faults, or for so long; then judge."""
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
        return self.outcome

    async def _strike(self) -> None:
        fault = self._chance.choices([*self._faults], [*self._faults.values()])[0]
        met = set(self._open.values())
        await asyncio.to_thread(fault, self._cast, self._chance)
        healed = time.monotonic()
        await self._recovered(met)
        self.outcome.faults[fault.__name__] += 1
        self.outcome.recoveries.append(time.monotonic() - healed)
        await asyncio.sleep(self._chance.uniform(0, 0.5))

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


def chosen(names: list[str]) -> dict[Fault, int]:
    """Those faults by their names, or all."""
    by_name = {fault.__name__: fault for fault in FAULTS}
    return {by_name[name]: FAULTS[by_name[name]] for name in names} if names else FAULTS
