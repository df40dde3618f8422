"""A message that RabbitMQ takes from an AMQP 1.0 client and cannot deliver to others harms only itself.

RabbitMQ closes the connection to which it delivers such a message, on 3.10 and on 4.0 alike.
"""

import json
from typing import Any

import pytest

from broker.topology import COORDINATOR, QUERIES, REJECTED, UNDELIVERED
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
