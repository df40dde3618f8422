"""Every accepted task is completed and recorded once, whichever process dies. With real processes and kill -9."""

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from fluffle import Client, TaskRejected
from tests.support.amqp import Amqp, amqp
from tests.support.processes import Process, until
from tests.support.proxy import proxy_before
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

WORK = ("--handler", "tests.support.recording_llms:work", "--slots", "10")
WAIT = ("--handler", "tests.support.recording_llms:wait_for_gate")
EAGER = {"FLUFFLE_LEASE": "2", "FLUFFLE_LEADER_LEASE": "1", "FLUFFLE_BATCH": "50"}
PATIENCE = 60.0  # seconds


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site with short leases and small batches, so that there are many points to die at."""
    with site_on(rabbitmq, tmp_path, env=EAGER) as site:
        yield site


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that lets the handler `wait_for_gate` finish once it exists."""
    return tmp_path / "gate"


def behind(gate: Path, task_id: str) -> dict[str, object]:
    return {"id": task_id, "description": "wait", "inputs": {"gate": str(gate)}}


def run_load(site: Site, ledger: Ledger, count: int, trouble: Callable[[], None]) -> None:
    """Submit tasks and wait until all complete, while `trouble` runs."""

    async def submit_and_wait() -> None:
        tasks = [Submission(description="work", id=f"load-{n}", max_attempts=50) for n in range(count)]
        async with Client(site.url, answer_timeout=PATIENCE) as client:
            making_trouble = asyncio.create_task(asyncio.to_thread(trouble))
            handles = []
            async for handle in client.submit_many(tasks):
                assert not isinstance(handle, TaskRejected)
                ledger.note(handle.id)
                handles.append(handle)
            for handle in handles:
                view = await handle.end(PATIENCE)
                assert view.status is Status.COMPLETED, view
            await making_trouble

    asyncio.run(submit_and_wait())


def some_moments(ledger: Ledger, load: int, times: int) -> Iterator[None]:
    """Yield this many times at random moments while the load is partly done."""
    for moment in sorted(random.sample(range(load * 3 // 4), times)):
        until(lambda: ledger.done() > moment, f"more than {moment} tasks are done", within=PATIENCE)  # noqa: B023
        yield


def assert_all_is_well(site: Site, ledger: Ledger, *, rejected: int = 0) -> None:
    site.drain()
    assert ledger.problems(rejected=rejected) == []


# -- a worker dies -----------------------------------------------------------------------------------------------------


def test_a_task_whose_worker_is_killed_is_finished_by_another(
    site: Site, ledger: Ledger, client: Amqp, gate: Path
) -> None:
    site.coordinator()
    first = site.worker("first", *WAIT, env=ledger.env)
    client.submit(behind(gate, "t"))
    ledger.note("t")
    until(lambda: ledger.effects("started"), "the task is started")
    second = site.worker("second", *WAIT, env=ledger.env)
    first.kill()
    gate.touch()
    until(lambda: ledger.effects(), "the task is done")
    second.wait_for("task completed")
    assert_all_is_well(site, ledger)
    assert [effect["attempt"] for effect in ledger.effects("started")] == [1, 2]
    assert site.select("select attempt, llm, outcome from attempts order by attempt") == [
        (1, "first", "lost"),
        (2, "second", "completed"),
    ]


def test_a_task_whose_worker_is_killed_is_finished_by_the_restarted_worker(
    site: Site, ledger: Ledger, client: Amqp, gate: Path
) -> None:
    site.coordinator()
    worker = site.worker("only", *WAIT, env=ledger.env)
    client.submit(behind(gate, "t"))
    ledger.note("t")
    until(lambda: ledger.effects("started"), "the task is started")
    worker.kill()
    gate.touch()
    site.worker("only", *WAIT, env=ledger.env)
    until(lambda: ledger.effects(), "the task is done")
    assert_all_is_well(site, ledger)
    assert site.select("select outcome from attempts order by attempt") == [("lost",), ("completed",)]


def test_workers_that_are_killed_under_load_lose_nothing(site: Site, ledger: Ledger) -> None:
    site.coordinator()
    workers = [site.worker(name, *WORK, env=ledger.env) for name in ("ann", "ben", "cid")]

    def kill_and_restart() -> None:
        for _ in some_moments(ledger, 500, 4):
            place = random.randrange(3)
            workers[place].kill()
            workers[place] = site.worker(("ann", "ben", "cid")[place], *WORK, env=ledger.env)

    run_load(site, ledger, 500, kill_and_restart)
    assert_all_is_well(site, ledger)


def test_a_worker_that_was_suspended_past_its_lease_changes_nothing(
    site: Site, ledger: Ledger, client: Amqp, gate: Path
) -> None:
    site.coordinator()
    sleepy = site.worker("sleepy", *WAIT, env=ledger.env)
    client.submit(behind(gate, "t"))
    until(lambda: ledger.effects("started"), "the task is started")
    site.worker("awake", *WAIT, env=ledger.env)
    sleepy.suspend()
    until(lambda: len(ledger.effects("started")) == 2, "the task is started again")
    gate.touch()
    until(lambda: ledger.effects(), "the task is done")
    sleepy.resume()
    client.submit({**behind(gate, "t2"), "assignee": "sleepy"})
    ledger.note("t", "t2")
    until(lambda: site.select("select 1 from tasks where id = 't2' and status = 'completed'"), "it works again")
    assert_all_is_well(site, ledger)
    recorded = site.select(
        "select id, a.llm, outcome from attempts a join tasks on seq = task_seq order by id, a.attempt"
    )
    assert recorded == [("t", "sleepy", "lost"), ("t", "awake", "completed"), ("t2", "sleepy", "completed")]


def test_a_result_survives_the_loss_of_its_worker_and_of_the_connection(
    rabbitmq: NodeInfo, tmp_path: Path, gate: Path
) -> None:
    with site_on(rabbitmq, tmp_path) as site, amqp(site.url) as client, proxy_before(site.url) as proxy:
        ledger = Ledger(site)
        site.coordinator()
        worker = site.worker("only", *WAIT, url=proxy.url, env=ledger.env)
        client.submit(behind(gate, "t"))
        until(lambda: ledger.effects("started"), "the task is started")
        proxy.cut()
        gate.touch()
        until(lambda: ledger.effects(), "the task is done")
        worker.wait_for("task completed")
        worker.kill()
        site.worker("only", *WAIT, env=ledger.env)
        until(lambda: site.select("select 1 from tasks where status = 'completed'"), "the answer is there")
        assert ledger.done() == 1
        assert site.select("select attempt, outcome from attempts") == [(1, "completed")]


# -- the coordinator dies ----------------------------------------------------------------------------------------------


def kill_coordinators_under_load(site: Site, ledger: Ledger) -> None:
    coordinator = site.coordinator()
    site.worker("ann", *WORK, env=ledger.env)
    site.worker("ben", *WORK, env=ledger.env)

    def kill_and_restart(coordinator: Process) -> None:
        for _ in some_moments(ledger, 600, 3):
            coordinator.kill()
            coordinator = site.coordinator()

    run_load(site, ledger, 600, lambda: kill_and_restart(coordinator))
    assert_all_is_well(site, ledger)


def test_a_coordinator_that_is_killed_under_load_loses_nothing(site: Site, ledger: Ledger) -> None:
    kill_coordinators_under_load(site, ledger)


@slow
def test_a_coordinator_that_is_killed_under_load_loses_nothing_on_postgresql(
    rabbitmq: NodeInfo, tmp_path: Path, postgres_url: str
) -> None:
    with site_on(rabbitmq, tmp_path, env={**EAGER, "FLUFFLE_DATABASE_URL": postgres_url}) as site:
        kill_coordinators_under_load(site, Ledger(site))


def test_a_standby_takes_over_from_a_leader_that_is_killed(site: Site, ledger: Ledger) -> None:
    leader = site.coordinator(until="leading")
    standby = site.coordinator(until="standing by")
    site.worker("ann", *WORK, env=ledger.env)

    def kill() -> None:
        for _ in some_moments(ledger, 500, 1):
            leader.kill()

    run_load(site, ledger, 500, kill)
    assert "leading" in standby.output
    assert_all_is_well(site, ledger)


def test_a_leader_that_was_suspended_past_its_lease_steps_down(site: Site, ledger: Ledger) -> None:
    leader = site.coordinator(until="leading")
    standby = site.coordinator(until="standing by")
    site.worker("ann", *WORK, env=ledger.env)

    def suspend_and_resume() -> None:
        for _ in some_moments(ledger, 500, 1):
            site.suspend_between_transactions(leader)
            standby.wait_for("leading")
            leader.resume()
            leader.wait_for("standing by")

    run_load(site, ledger, 500, suspend_and_resume)
    assert_all_is_well(site, ledger)
    assert "leading" not in leader.output.partition("standing by")[2]


def test_a_standby_takes_over_from_a_leader_that_is_cut_off_from_rabbitmq(
    site: Site, ledger: Ledger, client: Amqp, gate: Path
) -> None:
    with proxy_before(site.url) as proxy:
        leader = site.coordinator(until="leading", url=proxy.url)
        site.coordinator(until="standing by")
        site.worker("ann", *WAIT, env=ledger.env)
        client.submit(behind(gate, "t"))
        ledger.note("t")
        until(lambda: ledger.effects("started"), "the task is started")
        proxy.cut()
        site.coordinators[1].wait_for("leading")
        gate.touch()
        until(lambda: site.select("select 1 from tasks where status = 'completed'"), "the other one takes the result")
        assert leader.alive
        proxy.open()
        leader.wait_for("standing by")
        assert_all_is_well(site, ledger)


def test_coordinators_that_lose_rabbitmq_and_their_leader_at_once_recover_when_it_returns(
    site: Site, ledger: Ledger, client: Amqp, gate: Path
) -> None:
    with proxy_before(site.url) as proxy:
        leader = site.coordinator(until="leading", url=proxy.url)
        standby = site.coordinator(until="standing by", url=proxy.url)
        site.worker("ann", *WAIT, env=ledger.env)
        client.submit(behind(gate, "t"))
        ledger.note("t")
        until(lambda: ledger.effects("started"), "the task is started")
        proxy.cut()
        leader.terminate()
        assert leader.wait() == 0
        gate.touch()
        standby.wait_for("lost the connection")
        proxy.open()
        standby.wait_for("leading")
        until(lambda: site.select("select 1 from tasks where status = 'completed'"), "the task is done")
        assert_all_is_well(site, ledger)
        assert ledger.done() == 1


def test_a_coordinator_stops_on_request_while_rabbitmq_is_unreachable(site: Site, ledger: Ledger, client: Amqp) -> None:
    """The next coordinator publishes the rest: here the event of a passed due date."""
    told = client.queue(("fluffle.events", "task.overdue.*"))
    with proxy_before(site.url) as proxy:
        coordinator = site.coordinator(url=proxy.url, FLUFFLE_LEADER_LEASE="60")  # it gives up its lead after that
        due = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
        client.submit({"id": "t", "description": "-", "assignee": "nobody", "force": True, "due": due})
        until(lambda: site.select("select 1 from tasks"), "the task is accepted")
        proxy.cut()
        until(lambda: site.select("select 1 from tasks where overdue = 1"), "the due date has passed")
        coordinator.terminate()
        assert coordinator.wait() == 0
    assert client.depth(told) == 0
    site.coordinator()
    assert client.take(told).json()["subject"] == "t"
    client.publish("fluffle.tasks", "cancel", {"id": "t"})
    until(lambda: site.select("select 1 from tasks where status = 'cancelled'"), "the task is over")


def test_a_coordinator_processes_redelivered_messages_once_after_a_lost_connection(
    site: Site, ledger: Ledger, client: Amqp
) -> None:
    with proxy_before(site.url) as proxy:
        coordinator = site.coordinator(url=proxy.url)
        with site.locked_database():
            client.publish("fluffle.tasks", "cancel", {"id": "nothing"})  # keeps it busy
            until(lambda: not client.depth("fluffle.coordinator"), "the coordinator has taken it")
            for _ in range(50):
                client.publish("fluffle.tasks", "submit", b"bad")
            until(lambda: not client.depth("fluffle.coordinator"), "the coordinator has taken all of them")
            proxy.break_connections()
            coordinator.wait_for("connected again")
            until(lambda: coordinator.output.count("connected again") == 4, "both of its links are whole again")
            until(lambda: not client.depth("fluffle.coordinator"), "the coordinator has taken all of them again")
        until(lambda: client.depth("fluffle.rejected") >= 50, "all of them are rejected")
        assert_all_is_well(site, ledger, rejected=50)


# -- RabbitMQ dies -----------------------------------------------------------------------------------------------------


def test_a_node_that_is_killed_under_load_loses_nothing(site: Site, ledger: Ledger) -> None:
    if site.rabbitmq.node is None:
        pytest.skip("this broker is not ours to kill")
    site.coordinator()
    site.worker("ann", *WORK, env=ledger.env)
    site.worker("ben", *WORK, env=ledger.env)

    def kill_and_restart() -> None:
        for _ in some_moments(ledger, 600, 1):
            site.kill_and_restart_rabbitmq()

    run_load(site, ledger, 600, kill_and_restart)
    assert_all_is_well(site, ledger)
