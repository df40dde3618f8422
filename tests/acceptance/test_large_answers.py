"""Queries are answered, however large descriptions, results, messages and errors are."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.amqp import Amqp
from tests.support.foreign_llm import ForeignLLMs
from tests.support.processes import fluffle, until
from tests.support.rabbitmq import ON_RABBITMQ_4, NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site

LIMIT = 16 * 1024 * 1024  # bytes of a message: the default of RabbitMQ 4
MUCH = "word " * 72_000  # 360 kB


def set_limit(rabbitmq: NodeInfo, size: int) -> None:
    """Limit the size of messages on connections that are opened from now on."""
    rabbitmq.control("eval", f"application:set_env(rabbit, max_message_size, {size}).")  # setting of RabbitMQ 3.10
    rabbitmq.control("eval", f"persistent_term:put(max_message_size, {size}).")  # setting of RabbitMQ 4


@pytest.fixture
def limited(rabbitmq: NodeInfo) -> Iterator[None]:
    """Limit messages to 16 MiB, the default of RabbitMQ 4."""
    if not ON_RABBITMQ_4:
        set_limit(rabbitmq, LIMIT)
    yield
    set_limit(rabbitmq, LIMIT if ON_RABBITMQ_4 else 8 * LIMIT)


@pytest.fixture
def place(limited: None, site: Site) -> Site:
    """A site with a coordinator."""
    site.coordinator()
    return site


@pytest.fixture
def shell(place: Site) -> Shell:
    return Shell(place.url, place.state)


def lines(tasks: list[dict[str, Any]]) -> str:
    return "".join(json.dumps({"assignee": "nobody", "force": True, **task}) + "\n" for task in tasks)


def test_task_list_shows_the_beginning_of_long_descriptions(shell: Shell) -> None:
    tasks = [{"id": f"big-{n}", "description": f"Summarise this: {MUCH}"} for n in range(50)]
    shell("task", "submit", "--json-lines", "-", given=lines(tasks))
    listed = shell("task", "list").splitlines()
    assert [line.split("\t")[0] for line in listed] == [f"big-{n}" for n in reversed(range(50))]
    assert all(line.endswith("…") and len(line) < 1000 for line in listed)
    first = shell.json("task", "list")[0]
    assert first["description"].startswith("Summarise this: word word")
    assert first["left_out"] == {"description": len(tasks[0]["description"])}
    assert shell.json("task", "show", "big-49")["description"] == tasks[0]["description"]


def test_wait_and_list_handle_a_thousand_tasks_with_one_label(place: Site, client: Amqp, shell: Shell) -> None:
    tasks = [{"id": f"n-{n}", "description": f"{n} {'word ' * 3600}", "labels": ["nightly"]} for n in range(1000)]
    shell("task", "submit", "--json-lines", "-", given=lines(tasks))
    listed = shell("task", "list", "-l", "nightly", "-n", "1000").splitlines()
    assert [line.split("\t")[0] for line in listed] == [f"n-{n}" for n in reversed(range(1000))]
    with fluffle("task", "watch", "-l", "nightly", url=place.url, state=place.state, until="n-0") as watching:
        watching.wait_for("n-999")
    for number in range(1000):
        client.publish("fluffle.tasks", "cancel", {"id": f"n-{number}"})
    ended = shell("task", "wait", "--label", "nightly", code=3).splitlines()
    assert len(ended) == 1000


def test_a_long_conversation_is_returned_page_by_page(place: Site, client: Amqp, shell: Shell) -> None:
    client.queue(("fluffle.mailboxes", "user.bob"))
    for number in range(50):
        message = {"sender": "user.ana", "content": f"{number} {'word ' * 80_000}", "conversation_id": "talk"}
        client.publish("fluffle.messages", "user.bob", message)
    until(lambda: len(place.select("select 1 from messages")) == 50, "all are in the history")
    history = shell("message", "history", "-n", "50").splitlines()
    assert [line.split("\t")[5].split(" ")[0] for line in history] == [str(n) for n in range(50)]
    assert all(len(line) > 400_000 for line in history)
    (conversation,) = shell.json("message", "conversations")
    assert conversation["count"] == 50
    assert conversation["last"]["content"].startswith("49 word")
    assert conversation["left_out"]["content"] > 400_000
    assert len(json.dumps(conversation)) < 2000


def test_a_group_whose_results_are_too_large_fails_and_names_their_tasks(
    place: Site, client: Amqp, shell: Shell
) -> None:
    names = [f"big{n}" for n in range(20)]
    workers = ForeignLLMs(place, client, *names)
    submit = ("task", "submit", "big answers", "--id", "group", "--assignees", ",".join(names), "--mode", "all")
    with fluffle(*submit, "--wait", url=place.url, state=place.state, until=None) as waiting:
        workers.work(20, lambda it: {"outcome": "completed", "result": "x" * 900_000})
        assert waiting.wait() == 3
    assert "result_too_large: the results of its parts have 18,000,2" in waiting.output
    assert "group.1" in waiting.output
    assert "result_too_large" in shell("task", "show", "group")
    assert shell.json("task", "show", "group")["error"]["type"] == "result_too_large"
    assert "group" in shell("task", "list")
    assert shell.json("task", "show", "group.20")["result"] == "x" * 900_000


def test_long_errors_are_truncated_on_arrival(place: Site, client: Amqp, shell: Shell) -> None:
    workers, answers = ForeignLLMs(place, client, "odd"), client.queue()
    client.submit({"id": "odd-1", "description": "-", "assignee": "odd", "max_attempts": 1}, reply_to=answers)
    error = {"type": "odd" * 100, "message": "m" * 1_000_000, "retryable": False}
    for _ in range(20):
        workers.work(1, lambda it: {"outcome": "failed", "error": error})
        while client.take(answers).type != "task.failed":
            pass
        client.publish("fluffle.tasks", "retry", {"id": "odd-1"}, reply_to=answers)
    while client.take(answers).type != "task.accepted":
        pass
    shown = shell.json("task", "show", "odd-1")
    kept = [attempt["error"] for attempt in shown["attempts"] if "error" in attempt]
    assert len(kept) == 20
    assert {(len(it["message"]), it["message"][-2:], len(it["type"])) for it in kept} == {(2000, "m…", 200)}
    assert len(json.dumps(shell.json("task", "list"))) < 10_000


def test_a_message_that_rabbitmq_finds_too_large_is_sent_without_its_large_fields(
    rabbitmq: NodeInfo, site: Site, client: Amqp
) -> None:
    set_limit(rabbitmq, 2_000_000)
    try:
        site.coordinator()
        shell, workers, answers = Shell(site.url, site.state), ForeignLLMs(site, client, "odd"), client.queue()
        events = client.queue(("fluffle.events", "task.completed.*"))
        task = {"id": "large", "description": "-", "inputs": "i" * 1_040_000, "assignee": "odd"}
        client.submit(task, reply_to=answers)
        assert client.take(answers).type == "task.accepted"
        workers.work(1, lambda it: {"outcome": "completed", "result": "r" * 1_040_000})
        while (answer := client.take(answers)).type == "task.accepted":
            pass  # perhaps once more, because RabbitMQ has closed the channel
        for told in (answer.json(), client.take(events).json()["data"]):
            assert told["result"] == "r" * 1_040_000
            assert told["left_out"] == {"inputs": 1_040_002}
            assert "inputs" not in told
        assert "a message is too large" in site.coordinators[0].output
        assert "inputs (1,040,002 bytes): too large for an answer" in shell("task", "show", "large")
        assert "large" in shell("task", "list")
    finally:
        set_limit(rabbitmq, LIMIT if ON_RABBITMQ_4 else 8 * LIMIT)


def test_an_assignment_that_rabbitmq_finds_too_large_fails_its_task(
    rabbitmq: NodeInfo, site: Site, client: Amqp
) -> None:
    set_limit(rabbitmq, 1_500_000)
    try:
        site.coordinator()
        workers, answers = ForeignLLMs(site, client, "odd"), client.queue()
        client.submit({"id": "first", "description": "-", "assignee": "odd"})
        workers.work(1, lambda it: {"outcome": "completed", "result": "r" * 1_000_000})
        task = {"id": "second", "description": "-", "assignee": "odd", "inputs": "i" * 1_000_000}
        client.submit({**task, "depends_on": ["first"]}, reply_to=answers)
        while (failed := client.take(answers)).type == "task.accepted":
            pass  # perhaps once more, because RabbitMQ has closed the channel
        assert failed.type == "task.failed"
        assert failed.json()["error"]["type"] == "assignment_too_large"
        assert "RabbitMQ takes less" in failed.json()["error"]["message"]
    finally:
        set_limit(rabbitmq, LIMIT if ON_RABBITMQ_4 else 8 * LIMIT)
