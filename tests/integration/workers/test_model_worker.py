"""`fluffle worker --model` as a process: what it reports of its account, its limits, its usage and its models.

The test plays the coordinator and the servers of two models.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from broker.protocol.assignments import Allowance
from broker.protocol.worker_reports import Price
from tests.support.fake_coordinator import StandIn
from tests.support.openai_server import OpenAIServer, Refusal, Stalled, Text
from tests.support.processes import Process, fluffle

KEY = "sk-a-secret-key-of-mine"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


class Models:
    """Starts workers of the model of one server whose fallback is the model of the other."""

    def __init__(self, url: str, name: str, state: Path, server: OpenAIServer, other: OpenAIServer) -> None:
        self._url = url
        self._name = name
        self._state = state
        self._server = server
        self._other = other

    def worker(self, *options: str) -> AbstractContextManager[Process]:
        return fluffle(
            "worker",
            self._name,
            *("--model", "openai:first", "--base-url", self._server.url),
            *options,
            url=self._url,
            state=self._state,
            env={"OPENAI_API_KEY": KEY, "VLLM_BASE_URL": self._other.url},
        )


@pytest.fixture
def models(amqp_url: str, name: str, tmp_path: Path, server: OpenAIServer, other: OpenAIServer) -> Models:
    return Models(amqp_url, name, tmp_path, server, other)


async def test_a_limit_is_reported_with_the_account_that_it_is_of(
    models: Models, coordinator: StandIn, server: OpenAIServer
) -> None:
    server.script(Refusal(429, "slow down", {"Retry-After": "17"}), Text("never"))
    with models.worker() as process:
        hello = await coordinator.next("hello")
        assert re.fullmatch(r"openai-compatible-[0-9a-f]{8}", hello.limit)
        assert hello.price is None
        await coordinator.assign("t-1", "Say hello.")
        result = await coordinator.next("result")
    assert (result.error.type, result.error.retry_after, result.usage) == ("rate_limited", 17, None)
    assert len(server.requests) == 1
    assert KEY not in process.output
    assert all(KEY not in str(message) for _, message in coordinator.heard)


async def test_the_model_that_answered_is_in_the_result(
    models: Models, coordinator: StandIn, server: OpenAIServer, other: OpenAIServer
) -> None:
    server.script(Refusal(503, "busy"))
    other.script(Text("Hello"))
    prices = ("--price", "0.1,0.2", "--price", "vllm:second=1,10")
    with models.worker("--fallback", "vllm:second", *prices, "--limit", "team"):
        hello = await coordinator.next("hello")
        assert (hello.limit, hello.model) == ("team", "openai:first")
        assert (hello.price.input, hello.price.output) == (1.0, 10.0)
        await coordinator.assign("t-1", "Say hello.", budget=Allowance(usd=1.0))
        result = await coordinator.next("result")
    assert (result.result, result.model) == ("Hello", "vllm:second")
    assert result.usage.cost_usd == pytest.approx(11e-6 + 7 * 10e-6)


async def test_a_stopped_attempt_of_a_free_model_has_cost_nothing(
    models: Models, coordinator: StandIn, server: OpenAIServer
) -> None:
    server.script(Stalled("Half an ans"))
    with models.worker("--price", "0"):
        hello = await coordinator.next("hello")
        assert hello.price == Price(input=0.0, output=0.0)
        await coordinator.assign("t-1", "Say hello.")
        await coordinator.next("progress")
        await coordinator.stop(hello.instance, "t-1")
        result = await coordinator.next("result")
    assert result.outcome == "cancelled"
    assert (result.usage.requests, result.usage.cost_usd) == (1, 0.0)
