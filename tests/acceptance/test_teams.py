"""Several LLMs on one task: real processes on a real RabbitMQ."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ids import uuid7
from broker.protocol.task_requests import Vote
from broker.protocol.views import TaskView
from fluffle.client.kwargs import TaskFields
from fluffle.client.sync import SyncClient
from tests.support.processes import Process, until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on

OBEY = ("--handler", "tests.support.scripted_llm:obey")
NAMES = ("ana", "bea", "cem", "judy")
LEASE = "2"  # seconds


class Team:
    """A site with a coordinator, LLMs that obey, and a team whose members know their names."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.coordinator = site.coordinator()
        self.members = {name: self.begin(name) for name in NAMES}
        for name in ("obi", "oda", "ole"):
            site.worker(name, *OBEY, "--skills", "obey", "--slots", "4")

    def begin(self, name: str) -> Process:
        """Start the worker of a member."""
        who = self.folder / name
        who.write_text(name)
        way = ("--handler", "tests.support.team_llms:member", "--skills", "write", "--instructions", str(who))
        return self.site.worker(name, *way, "--slots", "2")


@pytest.fixture(scope="module")
def team(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("teams")
    with site_on(rabbitmq, folder, FLUFFLE_LEASE=LEASE) as site:
        yield Team(site, folder)


@pytest.fixture(scope="module")
def place(team: Team) -> Site:
    return team.site


@pytest.fixture
def shell(place: Site) -> Shell:
    return Shell(place.url, place.state)


def ended(client: SyncClient, task_id: str, status: str = "completed") -> TaskView:
    [view] = client.wait(task_id, timeout=60)
    assert view.status == status, view
    return view


@pytest.fixture
def client(place: Site) -> Iterator[SyncClient]:
    with SyncClient(place.url) as client:
        yield client


def until_running(client: SyncClient, task_id: str) -> None:
    until(lambda: client.task(task_id).status == "in_progress", f"{task_id} runs")


def test_cancelling_a_task_stops_its_five_running_descendants(client: SyncClient, tmp_path: Path) -> None:
    run = uuid7()
    parents: dict[str, str | None] = {"a": None, "a1": "a", "a2": "a", "a11": "a1", "a12": "a1", "a111": "a11"}
    for name, parent in parents.items():
        inputs = {"until": str(tmp_path / "never"), "stopped": str(tmp_path / f"{name}-stopped")}
        fields: TaskFields = {"id": f"{run}-{name}", "inputs": inputs, "skills": ["obey"]}
        if parent is not None:
            fields["parent_id"] = f"{run}-{parent}"
        client.submit(f"part {name}", **fields)
        until_running(client, f"{run}-{name}")
    client.cancel(f"{run}-a", "no longer needed")
    ends = {
        view.id.removeprefix(f"{run}-"): view
        for view in client.wait(*(f"{run}-{name}" for name in parents), timeout=30)
    }
    assert {name: view.status for name, view in ends.items()} == dict.fromkeys(parents, "cancelled")
    until(lambda: len(list(tmp_path.glob("*-stopped"))) == 6, "every call was stopped")
    for name, parent in parents.items():
        why = "no longer needed" if parent is None else f"{run}-{parent}, which it is part of, was cancelled"
        assert ends[name].history[-1].what == f"cancelled while in progress at {ends[name].llm}: {why}"


def test_a_judge_decides_a_debate(client: SyncClient, shell: Shell) -> None:
    inputs = {"ana": "yes", "bea": "no", "cem": "perhaps", "judge": "judy"}
    task = client.submit(
        "Shall we?", inputs=inputs, assignees=["ana", "bea", "cem"], mode="vote", vote=Vote(judge="judy"), timeout=60
    )
    view = ended(client, task.id)
    assert view.result == {
        "decision": ["no", "perhaps", "yes"],
        "judge": "judy",
        "ballots": [
            {"llm": "ana", "answer": "yes"},
            {"llm": "bea", "answer": "no"},
            {"llm": "cem", "answer": "perhaps"},
        ],
    }
    shown = shell("task", "show", task.id)
    assert f"└─ {task.id}.4  completed  judy" in shown
    assert "\nDecision by judy\n" in shown


def test_a_review_takes_two_rounds(client: SyncClient, shell: Shell) -> None:
    inputs = dict.fromkeys(NAMES, "a rabbit") | {"cem": "carrots"}
    task = client.submit("Write", inputs=inputs, skills=["write"], reviewer="cem", timeout=60)
    view = ended(client, task.id)
    assert view.result["result"] == "a rabbit, say carrots"
    author = view.result["rounds"][0]["author"]
    assert author != "cem"
    assert view.result["rounds"] == [
        {"author": author, "reviewer": "cem", "approved": False, "remarks": "say carrots", "score": 0.2},
        {"author": author, "reviewer": "cem", "approved": True, "remarks": "", "score": 1.0},
    ]
    assert [change.what for change in view.history] == [
        "round 1: sent back by cem: say carrots",
        "round 2: approved by cem",
    ]
    assert f"1. of {author}, sent back by cem (0.2): say carrots" in shell("task", "show", task.id)
    assert 0.5 < client.llm(author).quality["write"] < 1.25
    assert "write times " in shell("llm", "show", author)


def test_a_relay_passes_each_result_to_the_next_llm(client: SyncClient, shell: Shell) -> None:
    inputs = '{"ana": "one", "bea": "two", "cem": "three"}'
    options = ("--assignees", "ana,bea", "--assignees", "cem", "--mode", "relay", "--input", inputs)
    result = shell.json("task", "submit", "Improve", *options, "--wait")["result"]
    assert result["result"] == "three"
    assert [step["result"] for step in result["steps"]] == ["one", "two", "three"]


def vote(shell: Shell, inputs: str, *options: str) -> str:
    """Submit a vote of three for brown or white and return its id."""
    who = ("--assignees", "ana,bea,cem", "--mode", "vote", "--choice", "brown", "--choice", "white")
    return shell("task", "submit", "Which colour?", *who, "--input", inputs, *options).strip()


def test_a_vote_completes_although_one_member_is_killed(
    client: SyncClient, shell: Shell, team: Team, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gates = ", ".join(f'"{name}": "{gate if name != "cem" else tmp_path / "never"}"' for name in ("ana", "bea", "cem"))
    task_id = vote(
        shell, f'{{"ana": "white", "bea": "white", "cem": "brown", "gates": {{{gates}}}}}', "--timeout", "60"
    )
    until(lambda: client.task(f"{task_id}.3").status == "in_progress", "cem is at work")
    team.members["cem"].kill()
    gate.touch()
    view = ended(client, task_id)
    assert (view.result["choice"], view.result["tally"]) == ("white", {"brown": 0, "white": 2})
    assert [ballot["llm"] for ballot in view.result["ballots"]] == ["ana", "bea"]
    assert "cem" in view.result["failed"]
    team.members["cem"] = team.begin("cem")


def test_a_group_waits_for_a_dead_member_no_longer_than_the_timeout(
    client: SyncClient, shell: Shell, team: Team, tmp_path: Path
) -> None:
    inputs = f'{{"ana": "white", "bea": "brown", "cem": "brown", "gates": {{"cem": "{tmp_path / "never"}"}}}}'
    task_id = vote(shell, inputs, "--quorum", "3", "--timeout", "3s")
    until(lambda: client.task(f"{task_id}.3").status != "pending", "cem has it")
    team.members["cem"].kill()
    view = ended(client, task_id, "failed")
    assert view.error is not None
    assert view.error.type == "no_quorum"
    assert "3 ballots are needed, 2 came in time; cem: no answer yet" in view.error.message
    assert (
        ended(client, f"{task_id}.3", "cancelled").history[-1].what.endswith(f"{task_id}, which it is part of, failed")
    )
    team.members["cem"] = team.begin("cem")


def test_a_person_decides_a_tie(client: SyncClient, shell: Shell) -> None:
    inputs = '{"ana": "white", "bea": "brown"}'
    who = ("--assignees", "ana,bea", "--mode", "vote", "--choice", "brown", "--choice", "white")
    task_id = shell("task", "submit", "Which colour?", *who, "--input", inputs).strip()
    until(lambda: client.task(task_id).status == "input_required", "a person is asked")
    shown = shell("task", "show", task_id)
    assert "The vote is tied (brown: 1, white: 1). Which one is it?" in shown
    assert "one of: brown | white" in shown
    assert "answer: must be one of: brown, white" in shell.error("task", "answer", task_id, "green")
    shell("task", "answer", task_id, "brown")
    view = ended(client, task_id)
    assert (view.result["choice"], view.result["decided_by"]) == ("brown", "person")


def test_a_group_survives_a_restart_of_the_coordinator(
    client: SyncClient, shell: Shell, team: Team, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gates = ", ".join(f'"{name}": "{gate}"' for name in ("bea", "cem"))
    task_id = vote(shell, f'{{"ana": "white", "bea": "brown", "cem": "brown", "gates": {{{gates}}}}}', "--quorum", "3")
    until(lambda: client.task(f"{task_id}.1").status == "completed", "ana has voted")
    team.coordinator.kill()
    gate.touch()
    team.coordinator = team.site.coordinator()
    view = ended(client, task_id)
    assert (view.result["choice"], len(view.result["ballots"])) == ("brown", 3)
    assert [part.id for part in client.tasks(within=task_id)] == [f"{task_id}.{number}" for number in (3, 2, 1)]


def test_an_invalid_team_is_rejected_with_the_path_of_each_error(shell: Shell) -> None:
    assert "mode: required with assignees" in shell.error("task", "submit", "x", "--assignees", "ana,bea")
    assert "vote.weights: dora is not one of the assignees" in shell.error(
        *("task", "submit", "x", "--assignees", "ana,bea", "--mode", "vote", "--choice", "a", "--choice", "b"),
        *("--weights", "dora=2"),
    )
    assert "reviewer: no LLM named nobody" in shell.error("task", "submit", "x", "--reviewer", "nobody")
    assert "ana cannot review its own work" in shell.error("task", "submit", "x", "-a", "ana", "--reviewer", "ana")
