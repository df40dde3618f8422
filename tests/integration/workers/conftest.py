"""A worker with a real RabbitMQ; the test plays the coordinator."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_coordinator import StandIn, stand_in
from tests.support.proxy import Proxy, proxy_to
from tests.support.worker_harness import Scripted, Workers


@pytest.fixture
def name() -> str:
    return f"w{uuid.uuid4().hex[:8]}"


@pytest.fixture
def llm() -> Scripted:
    return Scripted()


@pytest.fixture
async def coordinator(amqp_url: str, name: str) -> AsyncIterator[StandIn]:
    async with stand_in(amqp_url, name) as it:
        yield it


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy


@pytest.fixture
def workers(amqp_url: str, name: str, llm: Scripted, tmp_path: Path) -> Workers:
    return Workers(amqp_url, name, llm, tmp_path)
