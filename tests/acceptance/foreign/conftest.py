"""A site for clients and workers of other languages."""

from collections.abc import Iterator

import pytest

from tests.support.amqp import Amqp, amqp
from tests.support.foreign_requests import ANSWERS, NORA, STATUS
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A coordinator, a worker, and nora, whose instance is whatever a test makes of it."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site"), FLUFFLE_LEASE="600") as site:
        site.queues.add("llm.nora.work")
        site.coordinator()
        site.worker("worker", "--handler", "tests.support.scripted_llm:obey", "--slots", "10")
        yield site


@pytest.fixture(scope="module")
def connected(site: Site) -> Iterator[Amqp]:
    with amqp(site.url) as client:
        client.queue(name=ANSWERS)
        client.queue(("fluffle.work", "llm.nora"), name="llm.nora.assignments")
        client.publish(STATUS, "nora.hello", NORA)
        yield client


@pytest.fixture
def client(connected: Amqp) -> Iterator[Amqp]:
    """A plain AMQP client with the queue ANSWERS. In the end nothing was rejected, unless the test has looked."""
    connected.take_all(ANSWERS)
    connected.take_all("fluffle.rejected")
    yield connected
    assert [message.headers["x-fluffle-errors"] for message in connected.take_all("fluffle.rejected")] == []


@pytest.fixture
def shell(site: Site) -> Shell:
    return Shell(site.url, site.state)
