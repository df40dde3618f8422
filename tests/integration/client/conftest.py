"""The client with a real broker, a real coordinator and an LLM that does what its inputs say."""

from collections.abc import AsyncIterator, Iterator

import pytest

from fluffle.client.client import Client
from tests.support.processes import fluffle
from tests.support.rabbitmq import NodeInfo


@pytest.fixture(scope="package")
def url(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker with a coordinator and the LLM obi, which obeys."""
    state = tmp_path_factory.mktemp("client")
    obey = ("--handler", "tests.support.scripted_llm:obey", "--slots", "50", "--skills", "obey,summarise")
    with (
        fluffle("coordinator", url=rabbitmq.url, state=state, until="ready"),
        fluffle("worker", "obi", *obey, url=rabbitmq.url, state=state, until="ready"),
    ):
        yield rabbitmq.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url) as client:
        yield client
