"""A RabbitMQ cluster of three under load: its nodes are upgraded one by one, and the leader of a queue is killed."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.node.server import RabbitMQNotFound, find_server
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.topology import COORDINATOR, work_queue
from fluffle import Client, TaskHandle
from tests.support.amqp import amqp
from tests.support.cluster import Cluster, cluster
from tests.support.processes import until
from tests.support.rabbitmq import ON_RABBITMQ_4, NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

pytestmark = slow

AT_ONCE = 50  # tasks
LLMS = ("ann", "ben", "cid")
WORK = ("--handler", "tests.support.recording_llms:work_for_a_while", "--slots", "10")
SETTINGS = {"FLUFFLE_LEASE": "6", "FLUFFLE_LEADER_LEASE": "2", "FLUFFLE_BATCH": "50"}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if ON_RABBITMQ_4:
        pytest.skip("a cluster is made of private nodes")
    try:
        find_server()
    except RabbitMQNotFound:
        pytest.skip("there is no rabbitmq-server to make a cluster of")
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def site(three: Cluster, tmp_path: Path) -> Iterator[Site]:
    with site_on(NodeInfo(three.members[0].url, None), tmp_path, env=SETTINGS) as site:
        yield site


def test_a_rolling_restart_loses_nothing(three: Cluster, site: Site, ledger: Ledger) -> None:
    def restart_one_by_one() -> None:
        for member in three.members:
            member.stop()
            member.start()
            three.wait_until_whole()
            three.wait_until_replicated()  # or the next one may hold the majority of a queue

    under_load(three, site, ledger, restart_one_by_one)


def test_a_killed_leader_of_the_inbox_loses_nothing(three: Cluster, site: Site, ledger: Ledger) -> None:
    def kill_leader() -> None:
        leader = three.leader_of(COORDINATOR)
        leader.kill()
        leader.start()
        three.wait_until_whole()
        three.wait_until_replicated()

    under_load(three, site, ledger, kill_leader)


def under_load(three: Cluster, site: Site, ledger: Ledger, trouble: Callable[[], None]) -> None:
    """Connect processes to every node and submit tasks until the fault is over; then check the database."""
    urls = [member.url for member in three.members]
    for url in urls[:2]:
        site.coordinator(url=url)
    for name, url in zip(LLMS, urls, strict=True):
        site.worker(name, *WORK, url=url, env=ledger.env)
    asyncio.run(_submit_during(trouble, urls[2], ledger))
    with amqp(urls[2]) as client:

        def all_taken() -> bool:
            return not any(client.depth(work_queue(name)) for name in LLMS)

        until(all_taken, "who was cut off is back and has taken what waited for it", within=60)
    site.drain()
    assert ledger.problems() == []
    assert len(ledger.submitted) >= 2 * AT_ONCE, "there was a load"


async def _submit_during(trouble: Callable[[], None], url: str, ledger: Ledger) -> None:
    async with Client(url, answer_timeout=120) as client:
        happening = asyncio.create_task(asyncio.to_thread(trouble))
        while not happening.done():
            await _some_work(client, ledger)
        await happening
        await _some_work(client, ledger)


async def _some_work(client: Client, ledger: Ledger) -> None:
    handles = []
    async for handle in client.submit_many([Submission(description="-", max_attempts=100)] * AT_ONCE):
        assert isinstance(handle, TaskHandle), handle
        ledger.note(handle.id)
        handles.append(handle)
    for handle in handles:
        assert (await handle.end(120)).status is Status.COMPLETED
