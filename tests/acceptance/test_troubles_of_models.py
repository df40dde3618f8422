"""Workers of models whose servers are unreachable, silent or limited: real processes and RabbitMQ."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from broker.errors import TaskFailed
from broker.protocol.task_requests import Vote
from fluffle.client.sync import SyncClient
from tests.support.openai_server import OpenAIServer, Refusal, Silence, Stalled, Text
from tests.support.site import Site

NO_TOOLS = Refusal(400, "registry.ollama.ai/library/gemma3:4b does not support tools")
BALLOT = json.dumps({"choice": "Flo", "reason": "it hops"})
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def client(site: Site) -> Iterator[SyncClient]:
    site.coordinator()
    with SyncClient(site.url) as client:
        yield client


def options(server: OpenAIServer, *more: str) -> tuple[str, ...]:
    return ("--model", "openai:gemma3", "--base-url", server.url, *more)


def test_models_that_cannot_call_tools_vote_and_fill_schemas(
    site: Site, client: SyncClient, server: OpenAIServer
) -> None:
    with OpenAIServer() as other:
        workers = [
            site.worker("ana", *options(server, "--tools", "all")),
            site.worker("bea", *options(other)),
        ]
        server.script(NO_TOOLS, Text(BALLOT))
        other.script(NO_TOOLS, Text(f"```json\n{BALLOT}\n```"))
        task = client.submit("Which name?", assignees=["ana", "bea"], mode="vote", vote=Vote(choices=["Flo", "Mo"]))
        result: Any = task.result(60)
        assert (result["choice"], result["tally"]) == ("Flo", {"Flo": 2, "Mo": 0})
        server.script(Text('{"n": 3}'))
        assert client.submit("Count.", assignee="ana", output_schema=COUNT).result(30) == {"n": 3}
        for worker in workers:
            worker.wait_for("openai:gemma3 cannot call tools and gets none from now on")


@pytest.mark.parametrize("reply", [Silence(), Stalled("Half an ans")])
def test_a_model_server_that_falls_silent_does_not_hold_the_slot(
    site: Site, client: SyncClient, server: OpenAIServer, reply: Silence | Stalled
) -> None:
    site.worker("ana", *options(server, "--stall-timeout", "1"))
    server.script(reply, Text("Hello"))
    silent = client.submit("Say hello.", assignee="ana", max_attempts=1)
    after = client.submit("Say hello again.", assignee="ana")
    with pytest.raises(TaskFailed, match="nothing came for 1 s"):
        silent.result(30)
    error = client.task(silent.id).error
    assert error is not None
    assert (error.type, error.retryable) == ("stalled", True)
    assert after.result(30) == "Hello"


def test_a_worker_warns_at_start_that_its_model_is_missing(
    site: Site, client: SyncClient, server: OpenAIServer
) -> None:
    server.models = ["gemma3:4b"]
    worker = site.worker("ana", "--model", "ollama:llama3.2", "--base-url", server.url)
    worker.wait_for("ana: ")
    worker.wait_for(f"{server.url}/ has no model llama3.2, but gemma3:4b; get it with `ollama pull llama3.2`")
    server.script(Text("Hello"))
    assert client.submit("Say hello.", assignee="ana").result(30) == "Hello"


def test_a_worker_warns_at_start_that_its_model_server_is_unreachable(site: Site) -> None:
    with OpenAIServer() as server:
        url = server.url
    worker = site.worker("ana", "--model", "openai:gemma3", "--base-url", url)
    worker.wait_for(f"{url}/ does not answer")


def test_a_worker_prints_nothing_but_its_log(site: Site, client: SyncClient, server: OpenAIServer) -> None:
    server.script(Text("Hello"))
    worker = site.worker("ana", *options(server), CLAUDECODE="1")  # where pydantic-ai would show its banner
    assert client.submit("Say hello.", assignee="ana").result(30) == "Hello"
    worker.wait_for("task completed")
    assert all(line.startswith("{") for line in worker.output.splitlines()), worker.output
