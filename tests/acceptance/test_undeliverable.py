"""A message that RabbitMQ takes from an AMQP 1.0 client and cannot deliver to others harms only itself.

RabbitMQ closes the connection to which it delivers such a message, on 3.10 and on 4.0 alike.
"""

from typing import Any

import pytest

from broker.topology import COORDINATOR, REJECTED
from tests.support.amqp import Amqp
from tests.support.amqp10 import enable_amqp10, publish_untranslatable
from tests.support.ledger import Ledger
from tests.support.node import NodeInfo
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.site import Site

WORK = ("--handler", "tests.support.handlers:work", "--slots", "4")
CONVERSE = ("--handler", "tests.support.handlers:converse")
FAILED_DELIVERIES = "cannot deliver a message of the queue"


@pytest.fixture(autouse=True)
def amqp10(rabbitmq: NodeInfo) -> None:
    """The broker speaks AMQP 1.0."""
    enable_amqp10(rabbitmq)


@pytest.fixture
def shell(site: Site) -> Shell:
    """The command line of Ana."""
    shell = Shell(site.url, site.state)
    shell.environment["FLUFFLE_USER"] = site.person("ana")
    return shell


def submit_ten(client: Amqp, ledger: Ledger, answers: str, name: str, **task: Any) -> list[str]:
    ids = [f"{name}-{number}" for number in range(10)]
    for task_id in ids:
        client.submit({"description": "-", "id": task_id, **task}, reply_to=answers, correlation_id=task_id)
    ledger.note(*ids)
    return ids


def endings(client: Amqp, answers: str, ids: list[str]) -> dict[str, str]:
    """How each of the tasks has ended, as its submitter hears it."""
    told: dict[str, str] = {}
    while set(ids) - told.keys():
        answer = client.take(answers)
        if answer.type != "task.accepted":
            told[str(answer.properties.correlation_id)] = answer.type
    return told


def test_the_tasks_around_a_submission_that_cannot_be_delivered_are_done(
    site: Site, ledger: Ledger, client: Amqp
) -> None:
    answers = client.queue()
    ids = submit_ten(client, ledger, answers, "before")
    publish_untranslatable(site.url, "fluffle.tasks/submit", body=b'{"description": "bad"}')
    ids += submit_ten(client, ledger, answers, "after")
    coordinator = site.coordinator()
    site.worker("ann", *WORK, **ledger.env)
    assert endings(client, answers, ids) == dict.fromkeys(ids, "task.completed")
    until(lambda: client.depth(REJECTED) == 1, "the bad one is a dead letter, and no other is")
    assert f"{FAILED_DELIVERIES} {COORDINATOR}" in coordinator.output
    assert coordinator.output.count("ready") == 1, "it has led all the time"
    assert "cannot be reached" not in coordinator.output
    assert ledger.done() == 20, "nothing was done twice"
    site.drain()
    assert ledger.problems(rejected=1) == []


def reject_five_and_a_bad_one(client: Amqp, site: Site) -> list[str]:
    """In the rejected queue: three good ones, one that cannot be delivered, two good ones. Returns the ids of the good."""
    ids = [f"good-{number}" for number in range(5)]
    for name in ids[:3]:
        client.publish("", REJECTED, b"{}", message_id=name)
    publish_untranslatable(site.url, REJECTED, message_id="bad")
    for name in ids[3:]:
        client.publish("", REJECTED, b"{}", message_id=name)
    return ids


def test_rejected_messages_are_listed_once_each_with_the_one_that_cannot_be_delivered(
    site: Site, client: Amqp, shell: Shell
) -> None:
    good = reject_five_and_a_bad_one(client, site)
    for _ in range(3):
        listed = shell.json("rejected", "list", "-n", "1000")
        assert sorted(message["id"] for message in listed) == sorted([*good, "bad"])
    [bad] = [message for message in listed if message["id"] == "bad"]
    assert bad["why"].startswith("RabbitMQ cannot deliver it to clients of AMQP 0-9-1: ")
    assert "cannot deliver it" in shell("rejected", "show", "bad")
    assert "good-4" in shell("rejected", "show", "good-4")
    until(lambda: client.depth(REJECTED) == 6, "all of them are still there")


def test_a_rejected_message_is_dropped_by_its_name_although_it_cannot_be_delivered(
    site: Site, client: Amqp, shell: Shell
) -> None:
    good = reject_five_and_a_bad_one(client, site)
    assert shell("rejected", "drop", "good-1", "bad") == "2 dropped\n"
    until(lambda: client.depth(REJECTED) == 4, "the others are there")
    assert [message.properties.message_id for message in client.take_all(REJECTED)] == [
        name for name in good if name != "good-1"
    ]


def test_all_rejected_messages_are_dropped_with_those_that_cannot_be_delivered(
    site: Site, client: Amqp, shell: Shell
) -> None:
    reject_five_and_a_bad_one(client, site)
    publish_untranslatable(site.url, REJECTED, REJECTED)
    assert shell("rejected", "drop", "--all") == "8 dropped\n"
    assert shell("rejected", "list") == "Nothing was rejected.\n"
    assert client.depth(REJECTED) == 0


def test_good_messages_are_requeued_past_one_that_cannot_be_delivered(
    site: Site, client: Amqp, shell: Shell, ledger: Ledger
) -> None:
    coordinator = site.coordinator()
    ids = []
    for name in ("first", "second", "third"):
        client.publish("fluffle.tasks", "soon", {"description": "-", "id": name}, message_id=name)
        ids.append(name)
    until(lambda: client.depth(REJECTED) == 3, "they are rejected")
    publish_untranslatable(site.url, REJECTED, message_id="bad")
    again = client.queue(("fluffle.tasks", "soon"))
    assert shell("rejected", "requeue", "second") == "1 requeued\n"
    assert client.take(again).json()["id"] == "second"
    done = shell.run("rejected", "requeue", "--all")
    assert (done.returncode, done.stdout) == (1, b"2 requeued\n")
    assert b"Error: bad: RabbitMQ cannot translate it to AMQP 0-9-1, so it cannot be published again" in done.stderr
    assert [client.take(again).json()["id"] for _ in range(2)] == ["first", "third"]
    assert [message["id"] for message in shell.json("rejected", "list")] == ["bad"]
    assert coordinator.alive
