"""The example worker that uses nothing but pika, held to the same protocol."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.protocol.topology import work_queue
from tests.support.fake_coordinator import WITHIN, StandIn, stand_in
from tests.support.processes import ROOT
from tests.support.proxy import Proxy, proxy_to

NAME = "shout"
PROGRAM = ROOT / "examples" / "worker_plain_pika.py"


@pytest.fixture
async def coordinator(amqp_url: str) -> AsyncIterator[StandIn]:
    async with stand_in(amqp_url, NAME) as it:
        yield it


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy


@pytest.fixture
def example(proxy: Proxy, coordinator: StandIn) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, PROGRAM], env={**os.environ, "FLUFFLE_AMQP_URL": proxy.url})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_plain_pika_worker_follows_the_protocol(
    example: "subprocess.Popen[bytes]", coordinator: StandIn, proxy: Proxy
) -> None:
    hello = await coordinator.next("hello", name=NAME)
    await coordinator.assign_raw(b"not an assignment")
    await coordinator.assign("t-1", "good morning")
    assert (await coordinator.next("result", task_id="t-1")).result == "GOOD MORNING"
    assert "".join(progress.text for progress in coordinator.all("progress")) == "GOOD MORNING "

    await coordinator.assign("t-1", "good morning")  # comes twice
    await coordinator.assign("t-2", "a " * 1000)
    await coordinator.next("claim", task_id="t-2")
    await coordinator.stop(hello.instance, "t-2")
    assert (await coordinator.next("result", task_id="t-2")).outcome == "cancelled"

    await coordinator.assign("t-3", "good night everybody")
    await coordinator.next("progress", task_id="t-3")
    proxy.break_connections()
    assert (await coordinator.next("result", task_id="t-3")).result == "GOOD NIGHT EVERYBODY"

    example.terminate()
    await coordinator.next("goodbye")
    assert await asyncio.to_thread(example.wait, WITHIN) == 0
    assert [claim.task_id for claim in coordinator.all("claim")] == ["t-1", "t-2", "t-3"]
    assert len(coordinator.all("result")) == 3
    assert await coordinator.depth(work_queue(NAME)) == 0
