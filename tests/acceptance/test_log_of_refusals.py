"""Every rejection and loss is a log line of the coordinator, and is answered if possible."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from tests.support.amqp import Amqp
from tests.support.foreign_llm import ForeignLLMs
from tests.support.processes import Process, until
from tests.support.shell import Shell
from tests.support.site import Site


@pytest.fixture
def coordinator(site: Site) -> Process:
    """A coordinator that takes unclaimed tasks back soon."""
    return site.coordinator(FLUFFLE_LEASE="2")


def lines(coordinator: Process, event: str) -> list[dict[str, Any]]:
    """Return the log lines of the coordinator of that kind."""
    logged = [json.loads(line) for line in coordinator.output.splitlines() if line.startswith("{")]
    return [line for line in logged if line["event"] == event and line["level"] == "warning"]


def one_line(coordinator: Process, event: str) -> dict[str, Any]:
    until(lambda: lines(coordinator, event), f"the coordinator logs {event!r}")
    (line,) = lines(coordinator, event)
    return line


def test_a_refused_hello_is_logged_and_answered(coordinator: Process, client: Amqp) -> None:
    answers = client.queue()
    hello = {"name": "ada", "instance": "one", "slots": "many"}
    client.publish("fluffle.status", "ada.hello", hello, reply_to=answers, correlation_id="c-1", message_id="h-1")
    told = client.take(answers)
    assert (told.type, told.properties.correlation_id) == ("task.rejected", "c-1")
    assert [wrong["path"] for wrong in told.json()["errors"]] == ["slots"]
    line = one_line(coordinator, "refused a message")
    assert (line["exchange"], line["routing_key"], line["message_id"]) == ("fluffle.status", "ada.hello", "h-1")
    assert line["errors"].startswith("slots: ")


def test_a_refused_request_is_logged(coordinator: Process, client: Amqp) -> None:
    client.publish("fluffle.tasks", "cancel", {"id": "t-404"})
    line = one_line(coordinator, "refused a request")
    assert (line["about"], line["errors"]) == ("t-404", "id: there is no such task")


def test_unclaimed_and_lost_attempts_are_logged(coordinator: Process, site: Site, client: Amqp) -> None:
    ForeignLLMs(site, client, "ada")
    client.submit({"id": "t-1", "description": "-", "assignee": "ada"})
    line = one_line(coordinator, "an attempt is unclaimed")
    assert (line["task"], line["attempt"], line["llm"]) == ("t-1", 1, "ada")
    client.submit({"id": "t-2", "description": "-", "assignee": "ada"})
    client.publish("fluffle.status", "ada.hello", {"name": "ada", "instance": "one", "slots": 100})
    client.take("llm.ada.work")
    until(lambda: client.take("llm.ada.work").json()["task_id"] == "t-2", "the second task is assigned")
    client.publish("fluffle.status", "ada.claim", {"task_id": "t-2", "attempt": 1, "instance": "one"})
    line = one_line(coordinator, "an attempt is lost")
    assert (line["task"], line["attempt"], line["llm"], line["instance"]) == ("t-2", 1, "ada", "one")
    assert line["reason"].startswith("the instance fell silent")


def test_a_flood_of_bad_messages_is_logged_in_a_few_lines(coordinator: Process, site: Site, client: Amqp) -> None:
    asyncio.run(_flood(site.url, 3000))

    def counted() -> int:
        told = lines(coordinator, "refused a message: more of this kind")
        return len(lines(coordinator, "refused a message")) + sum(int(line["not_logged"]) for line in told)

    until(lambda: counted() == 3000, "all are counted")
    seconds = Counter(line["timestamp"][:19] for line in lines(coordinator, "refused a message"))
    assert max(seconds.values()) <= 20, "ten a second, and the coordinator's seconds are not those of the clock"


async def _flood(url: str, count: int) -> None:
    async with RobustConnection(url, name="test") as link:
        bad = Outgoing("fluffle.tasks", "submit", b"no JSON")
        await asyncio.gather(*(link.publish_soon(bad) for _ in range(count)))


def test_an_offline_llm_can_be_forgotten(site: Site, client: Amqp) -> None:
    site.coordinator()
    shell = Shell(site.url, site.state)
    client.publish("fluffle.status", "stays.hello", {"name": "stays", "instance": "one"})
    for number in range(20):
        about = {"name": f"fake-{number}", "instance": "one"}
        client.publish("fluffle.status", f"fake-{number}.hello", about)
        client.publish("fluffle.status", f"fake-{number}.goodbye", about)
    names = [f"fake-{number}" for number in range(20)]
    until(lambda: len(shell("llm", "list").splitlines()) == 21, "all are known")
    client.publish("fluffle.status", "stays.beat", {"name": "stays", "instance": "one"})
    forgotten = shell("llm", "forget", *names).splitlines()
    assert [line.split("\t")[0] for line in forgotten] == names
    assert [line.split("\t")[0] for line in shell("llm", "list").splitlines()] == ["stays"]
    assert "there is no LLM fake-1" in shell.error("llm", "show", "fake-1")
    client.publish("fluffle.status", "fake-1.hello", {"name": "fake-1", "instance": "one"})
    until(lambda: "fake-1" in shell("llm", "list"), "one that comes back is known again")


def test_a_dependency_that_was_never_submitted_is_named(coordinator: Process, site: Site, client: Amqp) -> None:
    shell = Shell(site.url, site.state)
    shell("task", "submit", "build", "--id", "b", "--depends-on", "typo", "--assignee", "ada", "--force")
    assert "task typo, not submitted" in shell("task", "show", "b")
    assert "waiting for task typo, not submitted" in shell("task", "list")
    shell("task", "submit", "there it is", "--id", "typo", "--assignee", "ada", "--force")
    assert "not submitted" not in shell("task", "show", "b")
