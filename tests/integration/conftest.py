"""A RabbitMQ shared by the integration tests."""

from collections.abc import Iterator

import pytest

from tests.support.rabbitmq import NodeInfo, private_node


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInfo]:
    """A broker that runs as long as the tests. Leave it running, and without queues that others would trip over."""
    with private_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def amqp_url(rabbitmq: NodeInfo) -> str:
    """The URL of the shared broker."""
    return rabbitmq.url
