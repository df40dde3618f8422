"""Fixtures of the acceptance tests: a RabbitMQ, and a site of real processes on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.amqp import Amqp, amqp
from tests.support.postgres import postgres
from tests.support.rabbitmq import NodeInfo, private_node
from tests.support.role_users import RoleUsers
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInfo]:
    """A broker that runs as long as the tests. A test that kills it restarts it."""
    with private_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """Create a database on a separate PostgreSQL."""
    try:
        with postgres() as server:
            yield server.create("books")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site for coordinators and workers with default settings."""
    with site_on(rabbitmq, tmp_path) as site:
        yield site


@pytest.fixture
def in_sqlite(site: Site) -> None:
    """Skip a test about SQLite if the site is on PostgreSQL."""
    assert site.sqlite


@pytest.fixture
def ledger(site: Site) -> Ledger:
    """Return the ledger of that site."""
    return Ledger(site)


@pytest.fixture
def client(site: Site) -> Iterator[Amqp]:
    """Connect a plain AMQP client to that site's broker."""
    with amqp(site.url) as client:
        yield client


@pytest.fixture
def connect(site: Site, rights: RoleUsers) -> Iterator[Callable[[str], Amqp]]:
    """A plain AMQP client for any of the users of the fixture `rights`, which the module defines."""
    with rights.clients() as connect:
        yield connect


@pytest.fixture
def ana(connect: Callable[[str], Amqp]) -> Amqp:
    """A plain AMQP client of the user ana."""
    return connect("ana")
