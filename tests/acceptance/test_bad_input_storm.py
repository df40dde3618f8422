"""Bad input in bulk, and with another limit, on separate sites."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.amqp import amqp
from tests.support.bad_messages import ANSWERS, BAD, Bad, task
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

REJECTIONS = {"fluffle.messages": "message.rejected", "fluffle.queries": "query.rejected"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=slow)])
def site(request: pytest.FixtureRequest, rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site with a database of each kind."""
    env = {}
    if request.param == "postgresql":
        env["FLUFFLE_DATABASE_URL"] = request.getfixturevalue("postgres_url")
    with site_on(rabbitmq, tmp_path, env=env) as site:
        yield site


def test_every_message_of_a_mix_of_valid_and_bad_ones_is_accounted_for(site: Site, ledger: Ledger) -> None:
    bad = [message for name, message in BAD.items() if name != "17 MiB"] * 2
    good = [task(id=f"good-{n}") for n in range(len(bad))]
    published = [*bad, *good]
    random.shuffle(published)
    with amqp(site.url) as client:
        client.queue(name=ANSWERS)
        told = client.queue(("fluffle.events", "task.rejected.none"))
        site.worker("worker", "--handler", "tests.support.recording_llms:work", "--slots", "10", env=ledger.env)
        site.coordinator()
        client.submit(task(id="known"))
        ledger.note("known", *(one["id"] for one in good))
        until(lambda: ledger.effects(), "the task that some of them are about is done")
        for message in published:
            if isinstance(message, Bad):
                message.publish(client)
            else:
                client.submit(message, reply_to=ANSWERS, correlation_id="good")
        until(lambda: ledger.done() == len(good) + 1, "all good tasks are done", within=60)
        site.drain()
        assert ledger.problems(rejected=len(bad)) == []
        kinds = Counter(
            (answer.type, answer.properties.correlation_id == "good") for answer in client.take_all(ANSWERS)
        )
        kept = Counter(message.body for message in client.take_all("fluffle.rejected"))
        events = {event.json()["id"] for event in client.take_all(told)}
    assert kinds == {
        ("task.accepted", True): len(good),
        ("task.completed", True): len(good),
        **{
            (kind, False): sum(it.answered for it in bad if REJECTIONS.get(it.exchange, "task.rejected") == kind)
            for kind in ("task.rejected", "message.rejected", "query.rejected")
        },
    }
    assert kept == Counter(message.bytes for message in bad)
    assert len(events) == len(bad)


def test_a_smaller_body_limit_is_enforced(rabbitmq: NodeInfo, tmp_path: Path) -> None:
    with site_on(rabbitmq, tmp_path, FLUFFLE_MAX_BODY="2000") as site, amqp(site.url) as client:
        client.queue(name=ANSWERS)
        site.coordinator()
        for size, expected in ((2000, "task.accepted"), (2001, "task.rejected")):
            padding = "x" * (size - len(json.dumps(task(inputs=""))))
            client.submit(task(inputs=padding), reply_to=ANSWERS)
            answer = client.take(ANSWERS)
            assert answer.type == expected
        assert answer.json()["errors"] == [{"path": "", "message": "the body has 2,001 bytes; the limit is 2,000"}]
