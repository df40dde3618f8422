"""RabbitMQ blocks publishing, RabbitMQ is unreachable, no coordinator runs: every program reports which one it is."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager

import pytest

from broker.errors import BrokerBlocked, NoAnswer
from fluffle.client.client import Client
from fluffle.web.live import Live
from tests.support.alarms import low_on_disk
from tests.support.http_probe import health, scrape, wait_for_readiness
from tests.support.processes import until
from tests.support.proxy import proxy_to
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site

OBEY = ("--handler", "tests.support.scripted_llm:obey", "--skills", "obey")
BLOCKED = 5  # exit code
WORDS = "accepts no messages: low on disk"


@pytest.fixture
def shell(site: Site) -> Shell:
    return Shell(site.url, site.state)


def complaint(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return the error of a command."""
    return next(line for line in done.stderr.decode().splitlines() if line.startswith("Error: "))


def test_a_command_reports_that_rabbitmq_blocks_publishing_and_has_not_received_the_task(
    rabbitmq: NodeInfo, site: Site, shell: Shell
) -> None:
    site.coordinator()
    site.worker("obi", *OBEY)
    commands = (
        ("task", "submit", "during", "--id", "during", "-k", "obey"),
        ("task", "list"),
        ("task", "cancel", "another"),
        ("message", "send", "obi", "hello"),
    )
    with low_on_disk(rabbitmq), ThreadPoolExecutor() as at_the_same_time:
        ended = list(at_the_same_time.map(lambda command: shell.run(*command), commands))
    for command, done in zip(commands, ended, strict=True):
        assert (done.returncode, WORDS in complaint(done)) == (BLOCKED, True), command
        assert WORDS in done.stderr.decode().splitlines()[0], "it says so at once"
    submitting = complaint(ended[0])
    assert f"{WORDS}, and has not confirmed task during: submit it again with the same ID" in submitting
    assert "is in RabbitMQ" not in submitting
    assert complaint(ended[2]).endswith(f"{WORDS}. The command may still be carried out later")
    assert complaint(ended[3]).endswith(f"{WORDS}. The message may still be sent later")
    assert shell.run("task", "submit", "during", "--id", "during", "-k", "obey", "--wait").returncode == 0
    assert site.select("select status from tasks where id = 'during'") == [("completed",)]


def test_coordinator_and_worker_log_when_rabbitmq_blocks_and_unblocks_publishing(
    rabbitmq: NodeInfo, site: Site
) -> None:
    programs = (
        site.coordinator(FLUFFLE_METRICS_PORT="0"),
        site.worker("obi", *OBEY, FLUFFLE_METRICS_PORT="0"),
    )
    with low_on_disk(rabbitmq):
        for program in programs:
            program.wait_for(WORDS)
            assert health(program, "/readyz")[0] == 503
            assert WORDS in health(program, "/readyz")[1]["problems"][0]
            assert scrape(program)["fluffle_blocked"] == 1
    for program in programs:
        program.wait_for("accepts messages again")
        wait_for_readiness(program, 200)
        assert scrape(program)["fluffle_blocked"] == 0


@asynccontextmanager
async def low(rabbitmq: NodeInfo) -> AsyncIterator[None]:
    """Raise the disk alarm of RabbitMQ during the block, for a test with an event loop."""
    with ExitStack() as block:
        await asyncio.to_thread(block.enter_context, low_on_disk(rabbitmq))
        yield
        await asyncio.to_thread(block.close)


async def happens(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(until, condition, what)


async def test_the_web_page_shows_that_rabbitmq_blocks_publishing(rabbitmq: NodeInfo, site: Site) -> None:
    site.coordinator()
    async with Live(site.url) as live:
        async with low(rabbitmq):
            await happens(lambda: live.trouble is not None, "the page notices")
            assert live.trouble is not None
            assert WORDS in live.trouble
        await happens(lambda: live.trouble is None, "the page notices that it is over")


async def test_a_client_distinguishes_blocked_from_unreachable_and_from_no_coordinator(
    rabbitmq: NodeInfo, site: Site
) -> None:
    async with proxy_to(site.url) as proxy, Client(proxy.url, answer_timeout=0.5) as client:
        with pytest.raises(NoAnswer, match=r"no coordinator answered within 0.5 s. Task t-1 is in RabbitMQ and will"):
            await client.submit("anything", id="t-1")
        with pytest.raises(NoAnswer, match=r"no coordinator answered within 0.5 s. Start one"):
            await client.llms()
        async with low(rabbitmq):
            with pytest.raises(BrokerBlocked, match=f"{WORDS}, and has not confirmed task t-2"):
                await client.submit("anything", id="t-2")
            with pytest.raises(BrokerBlocked, match=WORDS):
                await client.llms()
            with pytest.raises(TimeoutError, match=WORDS):
                await client.ask("group.nobody", "hello", timeout=0.5)
            assert client.blocked == "low on disk"
        await happens(lambda: client.blocked is None, "the client learns that it is over")
        proxy.cut()
        with pytest.raises(NoAnswer, match=r"was lost and is not back within 0.5 s, and has not confirmed task t-3"):
            await client.submit("anything", id="t-3")
        with pytest.raises(NoAnswer, match=r"was lost and is not back within 0.5 s$"):
            await client.llms()


async def test_a_coordinator_that_does_not_answer_is_not_reported_as_missing(site: Site) -> None:
    coordinator = site.coordinator()
    async with Client(site.url, answer_timeout=0.5) as client:
        coordinator.suspend()
        try:
            with pytest.raises(
                NoAnswer, match=r"the coordinator has not answered within 0.5 s. Task t-1 is in RabbitMQ"
            ):
                await client.submit("anything", id="t-1")
            with pytest.raises(NoAnswer, match=r"the coordinator has not answered within 0.5 s$"):
                await client.llms()
        finally:
            coordinator.resume()
