"""How a worker leaves: drained, stopped, or killed."""

import asyncio
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from broker.protocol.topology import work_queue
from broker.protocol.worker_reports import RunningTask
from tests.support.fake_coordinator import WITHIN, StandIn
from tests.support.processes import Process, fluffle
from tests.support.proxy import PUBLISHER, Proxy
from tests.support.worker_harness import Scripted, Workers, at_work, for_ever, until

# -- leaving -------------------------------------------------------------------------------------------------------


async def test_a_drained_worker_finishes_its_running_tasks_and_returns_the_waiting_ones(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1")
    async with at_work(workers.make()) as (worker, running):
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await coordinator.assign("t-2")  # waits for the slot
        await coordinator.delivered()
        await coordinator.drain(worker.instance)
        leaving = await coordinator.next("beat", draining=True)
        assert leaving.tasks == [RunningTask(task_id="t-1", attempt=1)]
        await coordinator.assign("t-3")
        release.set()
        await asyncio.wait_for(running, WITHIN)
    kinds = [kind for kind, _ in coordinator.heard if kind != "beat"]
    assert kinds == ["hello", "claim", "result", "goodbye"]
    assert await coordinator.depth(work_queue(name)) == 2
    async with workers.one():  # whoever comes next does the rest
        await coordinator.next("result", task_id="t-2")
        await coordinator.next("result", task_id="t-3")


async def test_a_stopped_worker_reports_its_tasks_as_failed_and_leaves(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    llm.plays("t-1", for_ever)
    async with at_work(workers.make()) as (worker, running):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        worker.drain()
        worker.stop()
        await asyncio.wait_for(running, WITHIN)
    result = await coordinator.next("result")
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "worker_stopped", True)
    assert coordinator.heard[-1][0] == "goodbye"
    assert llm.running == 0


async def test_a_worker_stopped_while_rabbitmq_is_away_leaves_its_results_on_disk(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    release = llm.waits("t-1")
    async with at_work(workers.make(url=proxy.url)) as (worker, running):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.cut()
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        worker.stop()
        await asyncio.wait_for(running, WITHIN)
    async with workers.one():
        assert (await coordinator.next("result")).result == "done"


# -- as a process --------------------------------------------------------------------------------------------------


class Gate:
    """A worker process whose tasks are done when the test opens the gate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "gate"

    def open(self) -> None:
        self._file.touch()

    def worker(self, name: str, *, url: str) -> AbstractContextManager[Process]:
        command = f"sh -c 'until [ -e \"$0\" ]; do sleep 0.01; done; echo done' {self._file}"
        return fluffle("worker", name, "--exec", command, url=url, state=self._folder)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


async def exit_code(process: Process) -> int:
    return await asyncio.to_thread(process.wait)


async def test_sigterm_drains_a_worker(
    coordinator: StandIn, gate: Gate, amqp_url: str, name: str, workers: Workers
) -> None:
    with gate.worker(name, url=amqp_url) as process:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        process.terminate()
        await coordinator.next("beat", draining=True)
        await coordinator.assign("t-2")
        gate.open()
        assert await exit_code(process) == 0
    assert [kind for kind, _ in coordinator.heard if kind != "beat"] == ["hello", "claim", "result", "goodbye"]
    assert coordinator.all("result")[0].outcome == "completed"
    assert await coordinator.depth(work_queue(name)) == 1
    assert workers.spooled() == []
    assert "draining" in process.output


async def test_a_second_interrupt_stops_a_worker(coordinator: StandIn, gate: Gate, amqp_url: str, name: str) -> None:
    with gate.worker(name, url=amqp_url) as process:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        os.kill(process.pid, signal.SIGINT)
        await coordinator.next("beat", draining=True)
        os.kill(process.pid, signal.SIGINT)
        assert await exit_code(process) == 130
    assert (await coordinator.next("result")).error.type == "worker_stopped"
    assert coordinator.heard[-1][0] == "goodbye"


async def test_a_result_survives_kill_9_before_rabbitmq_confirms_it(
    coordinator: StandIn, gate: Gate, amqp_url: str, proxy: Proxy, name: str, workers: Workers
) -> None:
    with gate.worker(name, url=proxy.url) as killed:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        claim = await coordinator.next("claim")
        proxy.pairs[PUBLISHER].hold_what_is_sent()
        gate.open()
        await until(lambda: len(workers.spooled()) == 1)
        killed.kill()
    proxy.cut()
    assert coordinator.all("result") == []
    with gate.worker(name, url=amqp_url) as successor:
        result = await coordinator.next("result")
        assert (result.task_id, result.outcome, result.instance) == ("t-1", "completed", claim.instance)
        await until(lambda: workers.spooled() == [])
        successor.terminate()
        assert await exit_code(successor) == 0
    assert [kind for kind, _ in coordinator.heard if kind == "claim"] == ["claim"], "it is not done again"


async def test_the_error_for_a_refused_user_is_one_line(amqp_url: str, name: str, tmp_path: Path) -> None:
    url = f"amqp://nobody:wrong-password@{amqp_url.rpartition('@')[2]}"
    with fluffle("worker", name, "--model", "demo", url=url, state=tmp_path) as process:
        assert await exit_code(process) == 1
    assert process.output.startswith("Error: RabbitMQ at ")
    assert len(process.output.splitlines()) == 1
    assert "wrong-password" not in process.output
