"""A message of an AMQP 1.0 client that RabbitMQ cannot deliver to other clients affects no other message.

RabbitMQ closes the connection to which it delivers such a message, on 3.10 and on 4.0 alike.
"""

from typing import Any

import pytest

from broker.protocol.topology import COORDINATOR, QUERIES, REJECTED, UNDELIVERED
from tests.support.amqp import Amqp
from tests.support.amqp10 import enable_amqp10, publish_untranslatable
from tests.support.processes import fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger

WORK = ("--handler", "tests.support.recording_llms:work", "--slots", "4")
CONVERSE = ("--handler", "tests.support.recording_llms:converse")
FAILED_DELIVERIES = "cannot deliver a message of the queue"


@pytest.fixture(autouse=True)
def amqp10(rabbitmq: NodeInfo) -> None:
    """Enable AMQP 1.0 on the broker."""
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
    """Return how each of the tasks has ended, according to its answers."""
    told: dict[str, str] = {}
    while set(ids) - told.keys():
        answer = client.take(answers)
        if answer.type != "task.accepted":
            told[str(answer.properties.correlation_id)] = answer.type
    return told


def test_tasks_around_an_undeliverable_submission_are_completed(site: Site, ledger: Ledger, client: Amqp) -> None:
    answers = client.queue()
    ids = submit_ten(client, ledger, answers, "before")
    publish_untranslatable(site.url, "fluffle.tasks/submit", body=b'{"description": "bad"}')
    ids += submit_ten(client, ledger, answers, "after")
    coordinator = site.coordinator()
    site.worker("ann", *WORK, env=ledger.env)
    assert endings(client, answers, ids) == dict.fromkeys(ids, "task.completed")
    until(lambda: client.depth(REJECTED) == 1, "the bad one is a dead letter, and no other is")
    assert f"{FAILED_DELIVERIES} {COORDINATOR}" in coordinator.output
    assert coordinator.output.count("ready") == 1, "it has led all the time"
    assert "cannot be reached" not in coordinator.output
    assert ledger.done() == 20, "nothing was done twice"
    site.drain()
    assert ledger.problems(rejected=1) == []


def test_assignments_around_an_undeliverable_one_are_completed(site: Site, ledger: Ledger, client: Amqp) -> None:
    site.coordinator()
    worker = site.worker("ann", *WORK, env=ledger.env)
    answers = client.queue()
    ids = submit_ten(client, ledger, answers, "before", assignee="ann")
    publish_untranslatable(site.url, "llm.ann.work")
    ids += submit_ten(client, ledger, answers, "after", assignee="ann")
    assert endings(client, answers, ids) == dict.fromkeys(ids, "task.completed")
    until(lambda: client.depth(REJECTED) == 1, "the bad one is a dead letter, and no other is")
    assert f"{FAILED_DELIVERIES} llm.ann.work" in worker.output
    site.drain()
    assert ledger.problems(rejected=1) == []
    assert set(site.select("select attempt from attempts")) == {(1,)}, "no attempt was lost"


def test_an_llm_answers_the_messages_around_an_undeliverable_one(site: Site, ledger: Ledger, client: Amqp) -> None:
    site.coordinator()
    worker = site.worker("ada", *CONVERSE, env=ledger.env)
    answers, questions = client.queue(), [f"question-{number}" for number in range(6)]
    for place, question in enumerate(questions):
        if place == 3:
            publish_untranslatable(site.url, "llm.ada")
        message = {"sender": "user.ana", "content": question, "id": question}
        client.publish("fluffle.messages", "llm.ada", message, reply_to=answers, correlation_id=question)
    assert {client.take(answers).json()["in_reply_to"] for _ in questions} == set(questions)
    until(lambda: client.depth(REJECTED) == 1, "the bad one is a dead letter, and no other is")
    assert f"{FAILED_DELIVERIES} llm.ada" in worker.output


@pytest.mark.parametrize("queue", [QUERIES, UNDELIVERED])
def test_a_coordinator_continues_behind_an_undeliverable_message(
    site: Site, client: Amqp, shell: Shell, queue: str
) -> None:
    publish_untranslatable(site.url, queue, queue)
    coordinator = site.coordinator()
    assert shell.json("task", "list") == []
    assert "nobody has the address user.bob" in shell.error("message", "send", "user.bob", "hello?")
    coordinator.wait_for(f"deliveries of the queue {queue} go on")
    assert client.depth(queue) == 0
    assert client.depth(REJECTED) == (0 if queue == QUERIES else 2), "queries are thrown away"
    assert coordinator.output.count("ready") == 1, "it has led all the time"


def write_four_and_a_bad_one(client: Amqp, site: Site) -> list[str]:
    """Send two messages to Ana, an undeliverable one, and two more; return the texts of the deliverable ones."""
    texts = ["one", "two", "three", "four"]
    for text in texts:
        if text == "three":
            publish_untranslatable(site.url, "user.ana", message_id="bad")
        client.publish("fluffle.messages", "user.ana", {"sender": "user.bo", "content": text, "id": text})
    return texts


def test_a_person_reads_the_messages_around_an_undeliverable_one(site: Site, client: Amqp, shell: Shell) -> None:
    assert shell("message", "inbox") == ""
    texts = write_four_and_a_bad_one(client, site)
    for keep, outcome in ((True, "skipped"), (False, "moved to the rejected messages")):
        done = shell.run("message", "inbox", *(["--keep"] if keep else []))
        assert sorted(line.split("\t")[-1] for line in done.stdout.decode().splitlines()) == sorted(texts)
        assert f"a message to user.ana was {outcome}: RabbitMQ cannot deliver it" in done.stderr.decode()
    assert shell("message", "inbox") == ""
    [bad] = shell.json("rejected", "list")
    assert bad["id"] == "bad"


def test_following_an_inbox_shows_the_messages_around_an_undeliverable_one(
    site: Site, client: Amqp, shell: Shell
) -> None:
    assert shell("message", "inbox") == ""
    texts = write_four_and_a_bad_one(client, site)
    follow = ("message", "inbox", "--follow", "--json", "--as", "ana")
    with fluffle(*follow, url=site.url, state=site.state) as inbox:
        until(lambda: all(f'"content":"{text}"' in inbox.output for text in texts), "she has read all of them")
        until(lambda: client.depth(REJECTED) == 1, "the bad one is among the rejected", within=60)
        client.publish("fluffle.messages", "user.ana", {"sender": "user.bo", "content": "five", "id": "five"})
        inbox.wait_for('"content":"five"')


def reject_five_and_a_bad_one(client: Amqp, site: Site) -> list[str]:
    """Reject three messages, an undeliverable one, and two more; return the ids of the deliverable ones."""
    ids = [f"good-{number}" for number in range(5)]
    for name in ids[:3]:
        client.publish("", REJECTED, b"{}", message_id=name)
    publish_untranslatable(site.url, REJECTED, message_id="bad")
    for name in ids[3:]:
        client.publish("", REJECTED, b"{}", message_id=name)
    return ids


def test_rejected_list_shows_each_message_once_and_the_undeliverable_one(
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


def test_an_undeliverable_rejected_message_is_dropped_by_its_id(site: Site, client: Amqp, shell: Shell) -> None:
    good = reject_five_and_a_bad_one(client, site)
    assert shell("rejected", "drop", "good-1", "bad") == "2 dropped\n"
    until(lambda: client.depth(REJECTED) == 4, "the others are there")
    assert [message.properties.message_id for message in client.take_all(REJECTED)] == [
        name for name in good if name != "good-1"
    ]


def test_drop_all_removes_undeliverable_rejected_messages_too(site: Site, client: Amqp, shell: Shell) -> None:
    reject_five_and_a_bad_one(client, site)
    publish_untranslatable(site.url, REJECTED, REJECTED)
    assert shell("rejected", "drop", "--all") == "8 dropped\n"
    assert shell.json("rejected", "list") == []
    assert client.depth(REJECTED) == 0


def test_deliverable_messages_are_requeued_past_an_undeliverable_one(
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
    reason = b"the message cannot be published again: RabbitMQ cannot translate it to AMQP 0-9-1"
    assert b"Error: bad: " + reason in done.stderr
    assert [client.take(again).json()["id"] for _ in range(2)] == ["first", "third"]
    assert [message["id"] for message in shell.json("rejected", "list")] == ["bad"]
    assert coordinator.alive
