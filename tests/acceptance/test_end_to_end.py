"""The main path with real processes: any AMQP client submits a task, an LLM does it, the client gets the answer."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.amqp import Amqp, amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on

TEXT = "A fluffle is a group of rabbits. Rabbits dig warrens. A warren has many entrances."


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator and one LLM of every kind that needs no network."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site")) as site:
        site.coordinator()
        site.worker("demo", "--model", "demo")
        site.worker("exec", "--exec", "cat")
        site.worker(
            "sync", "--handler", "tests.support.recording_llms:work_in_thread", EFFECTS=str(site.state / "effects")
        )
        site.worker("async", "--handler", "tests.support.recording_llms:show_job", "--skills", "show")
        yield site


def ended(client: Amqp, queue: str) -> dict[str, Any]:
    """Return the task in the last of its two answers."""
    accepted, completed = client.take(queue), client.take(queue)
    assert [accepted.type, completed.type] == ["task.accepted", "task.completed"], completed.body
    view = completed.json()
    assert isinstance(view, dict)
    return view


def test_a_plain_publisher_gets_the_acceptance_and_then_the_result(client: Amqp) -> None:
    answers = client.queue()
    task = {"description": "Summarise the text", "inputs": {"text": TEXT}, "assignee": "demo"}
    client.submit(task, reply_to=answers, correlation_id="mine", message_id="plain-1")
    accepted, completed = client.take(answers), client.take(answers)
    for answer in (accepted, completed):
        assert answer.properties.correlation_id == "mine"
        assert answer.properties.content_type == "application/json"
        assert answer.json()["id"] == "plain-1"
    assert (accepted.type, accepted.json()["status"]) == ("task.accepted", "assigned")
    assert (completed.type, completed.json()["status"]) == ("task.completed", "completed")
    assert "rabbits" in completed.json()["result"]


def test_direct_reply_to_brings_both_answers(client: Amqp) -> None:
    task = {"description": "Anything", "assignee": "async"}
    answers = client.ask_directly("fluffle.tasks", "submit", task, answers=2)
    assert [answer.type for answer in answers] == ["task.accepted", "task.completed"]
    assert [answer.properties.correlation_id for answer in answers] == ["direct", "direct"]
    assert answers[1].json()["result"]["description"] == "Anything"


@pytest.mark.parametrize(("property_", "in_body", "settled"), [(7, {}, 7), (7, {"priority": 2}, 2), (None, {}, 4)])
def test_the_priority_of_the_body_wins_over_that_of_the_message(
    client: Amqp, property_: int | None, in_body: dict[str, int], settled: int
) -> None:
    answers = client.queue()
    client.submit({"description": "-", "assignee": "async", **in_body}, reply_to=answers, priority=property_)
    assert ended(client, answers)["priority"] == settled


def test_the_id_of_the_body_wins_and_a_missing_id_is_generated(client: Amqp) -> None:
    answers = client.queue()
    client.submit({"description": "-", "assignee": "async", "id": "body-1"}, reply_to=answers, message_id="property-1")
    assert ended(client, answers)["id"] == "body-1"
    client.submit({"description": "-", "assignee": "async"}, reply_to=answers)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{18,}", str(ended(client, answers)["id"]))


@pytest.mark.parametrize(
    ("llm", "model", "result"),
    [
        ("demo", "demo", "rabbits"),
        ("exec", "exec:cat", "Summarise"),
        ("sync", "handler:tests.support.recording_llms:work_in_thread", ""),
        ("async", "handler:tests.support.recording_llms:show_job", "rabbits"),
    ],
)
def test_every_kind_of_llm_does_its_task(client: Amqp, llm: str, model: str, result: str) -> None:
    answers = client.queue()
    client.submit({"description": "Summarise", "inputs": {"text": TEXT}, "assignee": llm}, reply_to=answers)
    view = ended(client, answers)
    assert view["llm"] == llm
    assert result in json.dumps(view["result"])
    client.publish("fluffle.queries", "llms", {"name": llm}, reply_to=answers)
    shown = client.take(answers).json()["llms"][0]
    assert (shown["state"], shown["model"].startswith(model)) == ("online", True)


def test_a_result_is_the_return_value_of_the_handler(client: Amqp, site: Site) -> None:
    answers = client.queue()
    client.submit({"description": "-", "assignee": "sync", "id": "did-it"}, reply_to=answers)
    result = ended(client, answers)["result"]
    effects = [json.loads(line) for line in (site.state / "effects").read_text().splitlines()]
    assert [effect["token"] for effect in effects if effect["task"] == "did-it"] == [result]


def test_a_task_is_assigned_to_an_llm_with_its_skills(client: Amqp) -> None:
    answers = client.queue()
    client.submit({"description": "-", "skills": ["show"]}, reply_to=answers)
    view = ended(client, answers)
    assert view["llm"] == "async"
    assert view["attempts"][0]["why"] == "the only LLM with show online"


def test_the_results_of_dependencies_reach_the_task_that_needs_them(client: Amqp) -> None:
    answers, others = client.queue(), client.queue()
    final = {"id": "report", "description": "Join", "assignee": "async", "depends_on": ["part-1", "part-2"]}
    client.submit(final, reply_to=answers)
    assert client.take(answers).json()["status"] == "blocked"
    for part in ("part-1", "part-2"):
        client.submit({"id": part, "description": part, "assignee": "exec"}, reply_to=others)
    completed = client.take(answers)
    assert completed.type == "task.completed"
    context = {above["id"]: above for above in completed.json()["result"]["context"]}
    assert context.keys() == {"part-1", "part-2"}
    for part in ("part-1", "part-2"):
        assert context[part]["status"] == "completed"
        assert part in context[part]["result"]


def test_a_task_whose_dependency_results_are_too_large_fails_with_the_reason(client: Amqp, site: Site) -> None:
    answers = client.queue()
    parts = [f"large-{n}" for n in range(17)]
    site.worker("filler", "--handler", "tests.support.recording_llms:fill")
    for part in parts:
        client.submit({"id": part, "description": "-", "inputs": {"size": 1_000_000}, "assignee": "filler"})
    client.submit({"description": "-", "depends_on": parts[:16], "assignee": "sync"}, reply_to=answers)
    assert ended(client, answers)["status"] == "completed"
    client.submit({"description": "-", "depends_on": parts, "assignee": "sync"}, reply_to=answers)
    accepted, failed = client.take(answers), client.take(answers)
    assert (accepted.type, failed.type) == ("task.accepted", "task.failed")
    error = failed.json()["error"]
    assert (error["type"], error["retryable"]) == ("assignment_too_large", False)
    assert re.search(r"have 17,00\d,\d{3} bytes; the limit is 16,777,216$", error["message"])


def test_events_are_cloudevents_on_the_documented_routing_keys(client: Amqp) -> None:
    everything = client.queue(("fluffle.events", "task.#"))
    client.submit({"id": "told", "description": "-", "assignee": "async"})
    events = [client.take(everything)]
    while not events[-1].routing_key.startswith("task.completed."):
        events.append(client.take(everything))
    # A state that another one replaced in the same transaction was never visible.
    statuses = [event.json()["data"]["status"] for event in events]
    assert [status for status in ("assigned", "in_progress", "completed") if status in statuses] == statuses
    llms = ["async"] * len(events)
    assert [event.routing_key for event in events] == [
        f"task.{status}.{llm}" for status, llm in zip(statuses, llms, strict=True)
    ]
    for event, status in zip(events, statuses, strict=True):
        assert event.properties.content_type == "application/cloudevents+json"
        body = event.json()
        assert (body["specversion"], body["source"]) == ("1.0", "/fluffle/coordinator")
        assert (body["type"], body["subject"]) == (f"fluffle.task.{status}", "told")
        assert (body["data"]["id"], body["data"]["status"]) == ("told", status)
        assert datetime.fromisoformat(body["time"]).tzinfo is not None
    assert len({event.json()["id"] for event in events}) == len(events)


def test_an_llm_that_connects_or_leaves_is_an_event(client: Amqp, site: Site) -> None:
    told = client.queue(("fluffle.events", "llm.#"))
    guest = site.worker("guest", "--model", "demo")
    guest.terminate()
    assert guest.wait() == 0
    states = ["online", "draining", "offline"]
    events = [client.take(told) for _ in states]
    assert [event.routing_key for event in events] == [f"llm.{state}.guest" for state in states]
    assert [event.json()["type"] for event in events] == [f"fluffle.llm.{state}" for state in states]
    model = "demo (offline extractive summariser)"
    assert events[0].json()["data"] == {"name": "guest", "state": "online", "slots": 1, "model": model}


def test_a_cancelled_task_is_stopped_where_it_runs(client: Amqp, site: Site) -> None:
    answers = client.queue()
    sleeper = site.worker("sleeper", "--exec", "sleep 600")
    started = client.queue(("fluffle.events", "task.in_progress.sleeper"))
    client.submit({"id": "long", "description": "-", "assignee": "sleeper"}, reply_to=answers)
    client.take(started)
    client.publish("fluffle.tasks", "cancel", {"id": "long", "reason": "too slow"})
    accepted, cancelled = client.take(answers), client.take(answers)
    assert [accepted.type, cancelled.type] == ["task.accepted", "task.cancelled"]
    assert "too slow" in cancelled.json()["history"][-1]["what"]
    sleeper.wait_for("task cancelled")


@pytest.mark.skipif(not shutil.which("amqp-publish"), reason="amqp-tools are not installed")
def test_amqp_publish_submits_and_amqp_consume_prints_the_answer(client: Amqp, site: Site) -> None:
    url = f"--url={site.url}"
    subprocess.run(["amqp-declare-queue", url, "--durable", "--queue=shell"], check=True, capture_output=True)
    site.queues.add("shell")
    task = json.dumps({"description": "Summarise the text", "inputs": {"text": TEXT}, "assignee": "demo"})
    subprocess.run(
        ["amqp-publish", url, "--exchange=fluffle.tasks", "--routing-key=submit", "--reply-to=shell", "--body", task],
        check=True,
    )
    consumed = subprocess.run(
        ["amqp-consume", url, "--queue=shell", "--count=2", "--", "sh", "-c", "cat; echo"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    accepted, completed = map(json.loads, consumed.stdout.splitlines())
    assert (accepted["status"], completed["status"]) == ("assigned", "completed")
    assert "rabbits" in completed["result"]


def test_no_message_was_rejected_or_left_in_a_queue(site: Site) -> None:
    with amqp(site.url) as client:
        until(lambda: not client.depth("fluffle.coordinator"), "the coordinator's inbox is empty")
        assert client.depth("fluffle.rejected") == 0
