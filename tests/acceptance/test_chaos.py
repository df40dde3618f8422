"""Everything dies at any time, for as long as FLUFFLE_CHAOS_SECONDS says; without it, not at all."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from broker.messages import Status, Submission
from fluffle import Client, TaskHandle, TaskRejected
from tests.support.ledger import Ledger
from tests.support.node import NodeInfo
from tests.support.processes import Process, until
from tests.support.site import Site, site_on

SECONDS = float(os.environ.get("FLUFFLE_CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("FLUFFLE_CHAOS_SEED", random.randrange(10**6)))
UNDER_WAY = 500  # tasks
PATIENCE = 180.0  # seconds

pytestmark = pytest.mark.skipif(not SECONDS, reason="FLUFFLE_CHAOS_SECONDS says how long")


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    with site_on(rabbitmq, tmp_path, FLUFFLE_LEASE="2", FLUFFLE_LEADER_LEASE="1", FLUFFLE_BATCH="50") as site:
        yield site


class Chaos:
    """Two coordinators and three workers, of which somebody is always about to die."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        self._site = site
        self._ledger = ledger
        self._chance = random.Random(SEED)
        self._restart: dict[str, Callable[[], Process]] = {
            "coordinator 1": site.coordinator,
            "coordinator 2": site.coordinator,
            **{name: partial(self._worker, name) for name in ("ann", "ben", "cid")},
        }
        self._running = {name: start() for name, start in self._restart.items()}

    def _worker(self, name: str) -> Process:
        handler = self._chance.choice(("work", "work_in_thread"))
        return self._site.worker(
            name, "--handler", f"tests.support.handlers:{handler}", "--slots", "10", **self._ledger.env
        )

    def run(self, end: float) -> None:
        """Make trouble until the monotonic clock says `end`. After each trouble the work has to go on."""
        while time.monotonic() < end:
            done = self._ledger.done()
            victim = self._chance.choice(list(self._running))
            trouble = self._chance.choices((self._kill, self._suspend, self._kill_node), (6, 3, 1))[0]
            print(f"{trouble.__name__} {victim} after {done} tasks")
            trouble(victim)
            more = done + self._chance.randrange(1, 200)
            until(lambda: self._ledger.done() >= more, f"{more} tasks are done", within=PATIENCE)  # noqa: B023

    def _kill(self, victim: str) -> None:
        self._running[victim].kill()
        self._running[victim] = self._restart[victim]()

    def _suspend(self, victim: str) -> None:
        self._running[victim].suspend()
        time.sleep(self._chance.uniform(0, 5))
        self._running[victim].resume()

    def _kill_node(self, _: str) -> None:
        if self._site.rabbitmq.node is not None:
            self._site.kill_and_restart_rabbitmq()


def test_chaos_loses_nothing(site: Site, ledger: Ledger) -> None:
    print(f"FLUFFLE_CHAOS_SEED={SEED}")
    chaos = Chaos(site, ledger)
    end = time.monotonic() + SECONDS

    async def run() -> None:
        handles: list[TaskHandle] = []
        async with Client(site.url, answer_timeout=PATIENCE) as client:
            trouble = asyncio.create_task(asyncio.to_thread(chaos.run, end))
            while not trouble.done():
                numbers = range(len(handles), len(handles) + 100)
                tasks = [Submission(description="work", id=f"chaos-{n}", max_attempts=100) for n in numbers]
                async for handle in client.submit_many(tasks):
                    assert not isinstance(handle, TaskRejected)
                    ledger.note(handle.id)
                    handles.append(handle)
                if len(handles) > UNDER_WAY:
                    await handles[-UNDER_WAY].end(PATIENCE)
            await trouble
            for handle in handles:
                assert (await handle.end(PATIENCE)).status is Status.COMPLETED
        print(f"{len(handles)} tasks, {ledger.done() - len(handles)} of them done more than once")

    asyncio.run(run())
    site.drain(within=PATIENCE)
    assert ledger.problems() == []
