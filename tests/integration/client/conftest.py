"""The client with a real broker, a real coordinator and an LLM that does what its inputs say."""

from collections.abc import AsyncIterator, Iterator

import pytest

from fluffle.client.client import Client
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on


@pytest.fixture(scope="package")
def url(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker with a coordinator and the LLM obi, which obeys."""
    obey = ("--handler", "tests.support.scripted_llm:obey", "--slots", "50", "--skills", "obey,summarise")
    with site_on(rabbitmq, tmp_path_factory.mktemp("client")) as site:  # which removes its queues in the end
        site.coordinator()
        site.worker("obi", *obey)
        yield site.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url) as client:
        yield client
