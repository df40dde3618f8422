"""Several models of a provider on one task: real processes, the provider's wire format, and its errors."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from broker.protocol.task_requests import Vote
from fluffle.client.sync import SyncClient
from tests.support.openai_server import Dropped, OpenAIServer, Refusal, Stalled, Text, ToolCall, ToolCalls
from tests.support.processes import Process, until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on

NAMES = ("ana", "bea", "cem", "judy")
LEASE = "2"  # seconds
VOTE_WITHIN = 8.0  # seconds


class Team:
    """A site with a coordinator and four LLMs, each with a model of a separate provider."""

    def __init__(self, site: Site, servers: dict[str, OpenAIServer]) -> None:
        self.site = site
        self.servers = servers
        site.coordinator()
        self.members = {name: self.begin(name) for name in NAMES}

    def begin(self, name: str) -> Process:
        """Start the worker of a member."""
        options = ("--model", "any", "--base-url", self.servers[name].url, "--tools", "delegate", "--slots", "3")
        return self.site.worker(name, *options, OPENAI_API_KEY="none")


@pytest.fixture(scope="module")
def whole(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with (
        ExitStack() as stack,
        site_on(rabbitmq, tmp_path_factory.mktemp("models"), FLUFFLE_LEASE=LEASE) as site,
    ):
        yield Team(site, {name: stack.enter_context(OpenAIServer()) for name in NAMES})


@pytest.fixture
def team(whole: Team) -> Iterator[Team]:
    """Start the team; at the end, every scripted reply must have been used."""
    for server in whole.servers.values():
        server.requests.clear()
    yield whole
    assert {name: server.replies_left for name, server in whole.servers.items()} == dict.fromkeys(NAMES, 0)


@pytest.fixture
def client(team: Team) -> Iterator[SyncClient]:
    with SyncClient(team.site.url) as client:
        yield client


def prompt(server: OpenAIServer, request: int) -> str:
    """Return the prompt of the model."""
    [asked] = [message["content"] for message in server.requests[request].body["messages"] if message["role"] == "user"]
    return str(asked)


def answered(*pieces: str) -> ToolCall:
    """Return an answer with a schema: pydantic-ai turns it into a tool call."""
    return ToolCall(*pieces, name="final_result")


def handed_on(description: str, llm: str) -> ToolCall:
    arguments = json.dumps({"description": description, "assignee": llm})
    return ToolCall(arguments[:20], arguments[20:], name="delegate")


def test_a_judge_decides_a_debate_although_the_provider_fails_now_and_then(team: Team, client: SyncClient) -> None:
    ana, bea, cem, judy = (team.servers[name] for name in NAMES)
    ana.script(Refusal(429, "slow down", {"Retry-After": "0.2"}), Text("Yes, ", "it is time."))
    bea.script(Refusal(500, "out of memory", {"Retry-After": "0.01"}), Text("No."))
    cem.script(Dropped("Per"), Text("Perhaps."))
    judy.script(Text("It is ", "time."))
    task = client.submit("Shall we?", assignees=["ana", "bea", "cem"], mode="vote", vote=Vote(judge="judy", quorum=3))
    result: Any = task.result(60)
    assert result == {
        "decision": "It is time.",
        "judge": "judy",
        "ballots": [
            {"llm": "ana", "answer": "Yes, it is time."},
            {"llm": "bea", "answer": "No."},
            {"llm": "cem", "answer": "Perhaps."},
        ],
    }
    assert all(f"\n{ballot['answer']}\n" in prompt(judy, 0) for ballot in result["ballots"])
    tries = client.task(f"{task.id}.3").attempts
    assert [attempt.error.type if attempt.error else attempt.outcome for attempt in tries] == [
        "connection",
        "completed",
    ]


def test_a_review_of_two_rounds_passes_the_remarks_to_the_author(team: Team, client: SyncClient) -> None:
    author, reviewer = team.servers["bea"], team.servers["cem"]
    author.script(Text("a rabbit"), Text("a rabbit ", "with carrots"))
    reviewer.script(
        answered('{"approved": fal', 'se, "remarks": "say carrots", "score": 0.2}'),
        answered('{"approved": tr'),  # it is told that this is not JSON, and corrects it
        answered('{"approved": true, "remarks": ""}'),
    )
    task = client.submit("Write", assignee="bea", reviewer="cem")
    result: Any = task.result(60)
    assert result["result"] == "a rabbit with carrots"
    assert [(it["approved"], it["remarks"]) for it in result["rounds"]] == [(False, "say carrots"), (True, "")]
    assert "say carrots" in prompt(author, 1)
    assert "a rabbit" in prompt(author, 1)
    assert [change.what for change in client.task(task.id).history] == [
        "round 1: sent back by cem: say carrots",
        "round 2: approved by cem",
    ]


def test_a_vote_completes_without_the_killed_member(team: Team, client: SyncClient) -> None:
    stalled = Stalled("I think")
    for name in ("ana", "bea"):
        team.servers[name].script(answered('{"choice": "white", ', '"reason": "it shows the dirt"}'))
    team.servers["cem"].script(stalled)
    vote = Vote(
        choices=["brown", "white"], quorum=2, weights={"cem": 5}
    )  # cem could decide the vote alone, so the group waits for cem
    task = client.submit("Which colour?", assignees=["ana", "bea", "cem"], mode="vote", vote=vote, timeout=VOTE_WITHIN)
    until(lambda: team.servers["cem"].requests, "cem is at work")
    team.members["cem"].kill()
    assert stalled.left.wait(10)
    result: Any = task.result(60)
    assert (result["choice"], result["tally"]) == ("white", {"brown": 0, "white": 2})
    assert [ballot["llm"] for ballot in result["ballots"]] == ["ana", "bea"]
    assert result["failed"] == {"cem": "no answer yet"}
    team.members["cem"] = team.begin("cem")


def test_cancelling_a_task_stops_its_five_running_descendants(team: Team, client: SyncClient) -> None:
    leaves = [Stalled("Once upon") for _ in range(3)]
    team.servers["judy"].script(ToolCalls(handed_on("the first half", "ana"), handed_on("the second half", "bea")))
    team.servers["ana"].script(ToolCalls(handed_on("a quarter", "cem"), handed_on("another quarter", "cem")))
    team.servers["bea"].script(handed_on("all of it", "cem"))
    team.servers["cem"].script(*leaves)
    task = client.submit("Write a book", assignee="judy")
    until(lambda: len(team.servers["cem"].requests) == 3, "the five parts are at work")
    client.cancel(task.id)
    parts = [view.id for view in client.tasks(within=task.id)]
    assert len(parts) == 5
    assert {view.status for view in client.wait(task.id, *parts, timeout=30)} == {"cancelled"}
    for leaf in leaves:
        assert leaf.left.wait(10), "its request is closed"
