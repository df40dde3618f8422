"""Bad input over the wire: each message is rejected once and clearly, no other is lost, and the queue keeps moving."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pika.exceptions import AMQPError

from tests.support.amqp import Amqp, Message, amqp
from tests.support.bad_messages import ANSWERS, BAD, FINE, ODD, TASKS, Bad, task, with_headers
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator, a worker, and the completed task `known`."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site")) as site:
        site.coordinator()
        ledger = Ledger(site)
        site.worker("worker", "--handler", "tests.support.recording_llms:work", "--slots", "10", env=ledger.env)
        yield site


@pytest.fixture(scope="module")
def connected(site: Site) -> Iterator[Amqp]:
    with amqp(site.url) as client:
        client.queue(name=ANSWERS)
        client.submit({"id": "known", "description": "-"}, reply_to=ANSWERS)
        assert [client.take(ANSWERS).type for _ in range(2)] == ["task.accepted", "task.completed"]
        yield client


@pytest.fixture
def client(connected: Amqp) -> Amqp:
    """A client with the queue ANSWERS; it and the rejected queue are emptied first."""
    until(lambda: not connected.depth("fluffle.coordinator"), "the coordinator's inbox is empty")
    connected.take_all(ANSWERS)
    connected.take_all("fluffle.rejected")
    return connected


@pytest.fixture
def told(client: Amqp) -> str:
    """Return a queue of the events about rejections."""
    return client.queue(("fluffle.events", "task.rejected.none"))


def submit_good(client: Amqp) -> None:
    client.submit(FINE, reply_to=ANSWERS, correlation_id="good")


def answers(client: Amqp, good: int, bad: int) -> list[Message]:
    """Return the rejections, after checking that the expected number of valid tasks was completed."""
    found = [client.take(ANSWERS) for _ in range(2 * good + bad)]
    kinds = Counter((answer.properties.correlation_id, answer.type) for answer in found)
    assert kinds["good", "task.accepted"] == kinds["good", "task.completed"] == good
    refusals = [answer for answer in found if answer.type.endswith(".rejected")]
    assert len(refusals) == bad
    return refusals


def errors_of(rejected: Message) -> list[dict[str, str]]:
    errors = json.loads(rejected.headers["x-fluffle-errors"])
    assert isinstance(errors, list)
    return errors


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_rejected_once_and_the_valid_ones_around_it_are_processed(
    client: Amqp, told: str, bad: Bad
) -> None:
    submit_good(client)
    bad.publish(client)
    submit_good(client)
    refusals = answers(client, good=2, bad=bad.answered)
    kinds = {"fluffle.messages": "message.rejected", "fluffle.queries": "query.rejected"}
    assert {refusal.type for refusal in refusals} <= {kinds.get(bad.exchange, "task.rejected")}
    rejected, event = client.take("fluffle.rejected"), client.take(told).json()
    assert client.depth("fluffle.rejected") == client.depth(told) == client.depth(ANSWERS) == 0
    assert [refusal for refusal in refusals if not bad.is_told_by(refusal.json()["errors"])] == []
    assert bad.is_told_by(errors_of(rejected))
    assert rejected.body == bad.bytes
    assert rejected.headers["x-fluffle-origin-exchange"] == bad.exchange
    key = bad.key if isinstance(bad.key, str) else bad.key.decode(errors="replace")
    assert rejected.headers["x-fluffle-origin-key"] == key
    assert event["type"] == "fluffle.task.rejected"
    assert bad.is_told_by(event["data"]["errors"])
    assert (event["data"]["exchange"], event["data"]["routing_key"]) == (bad.exchange, key)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_unusual_message_is_still_a_valid_task(client: Amqp, odd: dict[str, Any]) -> None:
    client.submit(FINE, **{"reply_to": ANSWERS, **odd})
    accepted, completed = client.take(ANSWERS), client.take(ANSWERS)
    assert (accepted.type, completed.type) == ("task.accepted", "task.completed")
    assert accepted.json()["priority"] == (9 if "priority" in odd else 4)
    if "correlation_id" in odd:
        assert completed.properties.correlation_id == odd["correlation_id"]
    assert client.depth("fluffle.rejected") == 0


@pytest.mark.parametrize("reply_to", ["", "no such queue", "fluffle.queries", "x" * 255])
def test_an_answer_without_a_reader_delays_nothing(client: Amqp, site: Site, reply_to: str) -> None:
    task_id = f"unwanted-{len(reply_to)}"
    client.submit(task(id=task_id), reply_to=reply_to)
    done = f"select 1 from tasks where id = '{task_id}' and status = 'completed'"
    until(lambda: site.select(done), "the task is done")
    submit_good(client)
    answers(client, good=1, bad=0)


def test_answers_sent_to_the_coordinator_itself_do_not_loop(client: Amqp, told: str) -> None:
    client.submit(task(id="selfish"), reply_to="fluffle.coordinator")
    rejected = [client.take("fluffle.rejected") for _ in range(2)]
    assert [message.json()["id"] for message in rejected] == ["selfish", "selfish"]
    submit_good(client)
    answers(client, good=1, bad=0)
    assert len(client.take_all(told)) == 2
    assert client.depth("fluffle.rejected") == 0


@pytest.mark.parametrize("double", [float("nan"), float("inf")])
def test_a_header_that_rabbitmq_cannot_decode_affects_only_its_publisher(
    client: Amqp, site: Site, double: float
) -> None:
    with pytest.raises(AMQPError), amqp(site.url) as hostile:
        hostile.submit(FINE, raw=with_headers(b"\x01ad" + struct.pack(">d", double)))
    submit_good(client)
    answers(client, good=1, bad=0)
    assert client.depth("fluffle.rejected") == 0


def test_a_dependency_cycle_is_rejected_whichever_task_arrives_last(client: Amqp, told: str) -> None:
    client.submit(task(id="egg", depends_on=["hen"]))
    client.submit(task(id="hen", depends_on=["egg"]), reply_to=ANSWERS)
    [refusal] = answers(client, good=0, bad=1)
    assert refusal.json() == {"id": "hen", "errors": [{"path": "depends_on", "message": "a cycle: hen -> egg -> hen"}]}
    assert client.take("fluffle.rejected").json()["id"] == "hen"
    assert client.take(told).json()["data"]["errors"] == refusal.json()["errors"]
    client.submit(task(id="hen"), reply_to=ANSWERS, correlation_id="good")
    answers(client, good=1, bad=0)


def test_an_id_submitted_many_times_at_once_is_one_task(client: Amqp, site: Site) -> None:
    for _ in range(50):
        client.submit(task(id="many"), reply_to=ANSWERS)
    types: Counter[str] = Counter()
    while types["task.accepted"] < 50 or not types["task.completed"]:
        types[client.take(ANSWERS).type] += 1
    assert site.select("select count(*) from tasks where id = 'many'") == [(1,)]
    assert site.select("select count(*) from attempts join tasks on seq = task_seq where id = 'many'") == [(1,)]


@pytest.mark.parametrize("key", ["cancel", "retry", "update", "assign"])
def test_a_command_about_an_unknown_task_is_answered(client: Amqp, key: str) -> None:
    client.publish(TASKS, key, {"id": "unheard-of"}, reply_to=ANSWERS)
    [refusal] = answers(client, good=0, bad=1)
    assert refusal.json() == {"id": "unheard-of", "errors": [{"path": "id", "message": "there is no such task"}]}


@pytest.mark.parametrize(
    ("key", "body", "path"),
    [
        ("task", b"", ""),
        ("task", {}, "id"),
        ("task", {"id": "unheard-of"}, "id"),
        ("tasks", {"limit": 0}, "limit"),
        ("tasks", {"before": 2**63}, "before"),
        ("tasks", {"text": "a\0b"}, "text"),
        ("tasks", {"status": ["done"]}, "status.0"),
        ("llms", {"name": "nobody"}, "name"),
        ("report", {"name": "weather"}, "name"),
        ("report", {"since": "yesterday"}, "since"),
    ],
)
def test_a_bad_query_gets_an_error_and_the_next_query_an_answer(client: Amqp, key: str, body: Any, path: str) -> None:
    client.publish("fluffle.queries", key, body)
    client.publish("fluffle.queries", key, body, reply_to=ANSWERS)
    refusal = client.take(ANSWERS)
    assert refusal.type == "query.rejected"
    assert [error["path"] for error in refusal.json()["errors"]] == [path]
    client.publish("fluffle.queries", "task", {"id": "known"}, reply_to=ANSWERS)
    assert client.take(ANSWERS).json()["id"] == "known"


def test_a_task_that_the_database_refuses_is_rejected_and_its_batch_is_processed(
    client: Amqp, site: Site, told: str
) -> None:
    refuse = (
        "create trigger poison before insert on tasks when new.id = 'poison'"
        " begin select raise(abort, 'this cannot be stored'); end"
    )
    refuse_no_more = "drop trigger poison"
    if site.server is not None:
        refuse = "alter table tasks add constraint poison check (id <> 'poison')"
        refuse_no_more = "alter table tasks drop constraint poison"
    site.execute(refuse)
    try:
        for n in range(20):
            client.submit(task(id=f"neighbour-{n}"), reply_to=ANSWERS, correlation_id="good")
            if n == 10:
                client.submit(task(id="poison"), reply_to=ANSWERS)
        [refusal] = answers(client, good=20, bad=1)
        assert "cannot process this message" in refusal.json()["errors"][0]["message"]
        assert client.take("fluffle.rejected").json()["id"] == "poison"
        assert client.take(told).json()["data"]["errors"] == refusal.json()["errors"]
    finally:
        site.execute(refuse_no_more)
