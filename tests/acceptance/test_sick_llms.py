"""LLMs that are sick, limited or away: real processes, RabbitMQ, and servers that count their requests."""

import socket
from collections.abc import Iterator

import pytest

from fluffle.client.sync import SyncClient
from tests.support.openai_server import OpenAIServer, Refusal, Reply, Silence, Text
from tests.support.processes import until
from tests.support.site import Site

TASKS = 40
WRONG_KEY = Refusal(401, "Incorrect API key provided", code="invalid_api_key")
NO_CREDIT = Refusal(429, "You exceeded your current quota, please check your plan", code="insufficient_quota")
BROKEN = Refusal(500, "The server had an error while processing your request")
LOADING = Refusal(503, "Loading model")


@pytest.fixture
def sick() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def healthy() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        server.otherwise = Text("Done")
        yield server


@pytest.fixture
def client(site: Site) -> Iterator[SyncClient]:
    site.coordinator()
    with SyncClient(site.url) as client:
        yield client


def worker(site: Site, name: str, server: OpenAIServer, *more: str) -> None:
    site.worker(name, "--model", "openai:gpt", "--base-url", server.url, "--skills", "s", "--slots", "2", *more)


@pytest.mark.parametrize(
    ("reply", "most"),
    [(WRONG_KEY, 8), (NO_CREDIT, 8), (BROKEN, 15), (Silence(), 10)],
    ids=["a wrong key", "an exhausted credit", "status 500", "silence"],
)
def test_no_task_fails_while_another_llm_can_do_it(
    site: Site, client: SyncClient, sick: OpenAIServer, healthy: OpenAIServer, reply: Reply, most: int
) -> None:
    sick.otherwise = reply
    worker(site, "ada", sick, "--stall-timeout", "1")
    worker(site, "bea", healthy)
    tasks = [client.submit(f"Task {number}.", skills=["s"], max_attempts=1) for number in range(TASKS)]
    assert [task.result(60) for task in tasks] == ["Done"] * TASKS
    assert 1 <= len(sick.requests) <= most
    assert len(healthy.requests) == TASKS
    shown = client.llm("ada")
    assert shown.health.last_error is not None
    assert shown.health.failed == len(sick.requests)


def test_tasks_of_an_llm_with_a_wrong_key_wait_until_it_is_repaired(
    site: Site, client: SyncClient, sick: OpenAIServer
) -> None:
    sick.otherwise = WRONG_KEY
    worker(site, "ada", sick)
    tasks = [client.submit(f"Task {number}.", skills=["s"], max_attempts=1) for number in range(10)]
    until(lambda: client.llm("ada").health.state == "open", "the circuit breaker is open")
    assert "authentication" in (client.llm("ada").why_not or "")
    assert "circuit open" in (client.task(tasks[-1].id).waits or "")
    sick.otherwise = Text("Done")
    client.manage("ada", paused=False)
    assert [task.result(30) for task in tasks] == ["Done"] * 10
    assert client.llm("ada").health.state == "healthy"


def test_a_server_that_is_down_for_a_while_fails_no_task(site: Site, client: SyncClient) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    site.worker("ada", "--model", "openai:gpt", "--base-url", f"http://127.0.0.1:{port}/v1", "--slots", "2")
    tasks = [client.submit(f"Task {number}.", max_attempts=1) for number in range(6)]
    until(lambda: client.llm("ada").health.state == "open", "the circuit breaker is open")
    with OpenAIServer(port) as server:
        server.otherwise = Text("Done")
        assert [task.result(60) for task in tasks] == ["Done"] * 6


def test_a_server_that_loads_its_model_is_waited_for(site: Site, client: SyncClient, sick: OpenAIServer) -> None:
    sick.script(LOADING, LOADING, LOADING)
    sick.otherwise = Text("Done")
    worker(site, "ada", sick)
    assert client.submit("A task.", max_attempts=1).result(30) == "Done"
    assert client.llm("ada").health.failed == 0
