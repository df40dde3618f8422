"""A queue for each test, and a proxy before RabbitMQ."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pika
import pytest

from tests.support.proxy import Proxy, proxy_to


@pytest.fixture
def queue(amqp_url: str) -> Iterator[str]:
    """The name of a durable queue that is deleted at the end."""
    name = f"test.{uuid.uuid4().hex[:12]}"
    yield name
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_delete(name)


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy
