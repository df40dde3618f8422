"""Real users with the rights of their roles try forbidden operations on a real broker.

RabbitMQ refuses most of them; a coordinator that requires identity refuses the rest.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from broker.access.roles import Role
from broker.protocol.chat import Message as Mail
from fluffle.client.client import Client
from tests.support.amqp import Amqp, Message, amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.role_users import RoleUsers
from tests.support.shell import Shell
from tests.support.site import Site, site_on

STATUS, TASKS, QUERIES, REQUESTS = "fluffle.status", "fluffle.tasks", "fluffle.queries", "fluffle.requests"
REFUSED, FORGED = 403, 406  # AMQP reply codes: access refused, precondition failed
HELLO = {"name": "vega", "instance": "v1"}

Channel = Any  # of pika, which has no type information


@pytest.fixture(scope="module")
def rights(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> RoleUsers:
    """Users for a coordinator, the LLMs atlas and vega, the people ana and bo, and the web page."""
    rights = RoleUsers(rabbitmq, tmp_path_factory.mktemp("users"))
    rights.grant(Role.COORDINATOR)
    rights.grant(Role.WEB)
    for name in ("atlas", "vega"):
        rights.grant(Role.LLM, name)
    for name in ("ana", "bo"):
        rights.grant(Role.CLIENT, name)
    return rights


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, rights: RoleUsers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator that requires identity, and the worker atlas. Each test plays vega."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site"), FLUFFLE_REQUIRE_IDENTITY="true") as site:
        asyncio.run(rights.declare())
        mailboxes = ("llm.atlas", "llm.vega", "user.ana", "user.bo", "user.web")
        site.queues.update({"llm.vega.work", "fluffle.undelivered", *mailboxes})
        site.coordinator(url=rights.url_of["coordinator"])
        site.worker("atlas", "--handler", "tests.support.scripted_llm:obey", url=rights.url_of["atlas"])
        yield site


@pytest.fixture
def vega(connect: Callable[[str], Amqp]) -> Amqp:
    return connect("vega")


@pytest.fixture
def rejected(site: Site) -> Iterator[Callable[[], Message]]:
    """Return a function that takes the next rejected message; the queue is empty before and after the test."""
    with amqp(site.url) as operator:
        operator.take_all("fluffle.rejected")
        yield lambda: operator.take("fluffle.rejected")
        assert operator.depth("fluffle.rejected") == 0


def submitted(client: Amqp, user: str, task: dict[str, Any]) -> str:
    """Submit a task as this user and return its id once it is accepted."""
    answers = client.queue()
    client.submit(task, reply_to=answers, user_id=user)
    accepted = client.take(answers)
    assert accepted.type == "task.accepted", accepted.body
    return str(accepted.json()["id"])


def problems(rejected: Message) -> dict[str, str]:
    return {error["path"]: error["message"] for error in json.loads(rejected.headers["x-fluffle-errors"])}


def status_of(site: Site, task_id: str) -> str:
    [(status,)] = site.select(f"select status from tasks where id = '{task_id}'")
    return str(status)


# -- what everybody may do -----------------------------------------------------------------------------------------


def test_a_task_is_completed_with_the_rights_of_its_roles_alone(site: Site, rights: RoleUsers) -> None:
    shell = Shell(rights.url_of["ana"], site.state)
    done = json.loads(shell("task", "submit", "anything", "--assignee", "atlas", "--wait", "--json"))
    assert (done["status"], done["llm"], done["submitted_by"]) == ("completed", "atlas", "ana")
    assert [llm["name"] for llm in shell.json("llm", "list") if llm["state"] == "online"] == ["atlas"]
    [worker] = site.workers
    assert '"level": "warning"' not in worker.output


def test_the_history_names_the_rabbitmq_user(site: Site, rights: RoleUsers) -> None:
    ana, bo = (Shell(rights.url_of[name], site.state) for name in ("ana", "bo"))
    task_id = ana.json("task", "submit", "anything", "--assignee", "nobody", "--force")["id"]
    bo("task", "cancel", task_id)
    [change] = ana.json("task", "show", task_id)["history"]
    assert change["by"] == "bo"


def test_the_web_page_may_read_rejected_messages_and_their_users(
    site: Site, rights: RoleUsers, ana: Amqp, rejected: Callable[[], Message]
) -> None:
    web = Shell(rights.url_of["web"], site.state)
    ana.submit(b"no JSON", user_id="ana")
    until(lambda: web.json("rejected", "list"), "the page shows it")
    [shown] = web.json("rejected", "list")
    assert shown["user_id"] == "ana"
    rejected()


# -- what RabbitMQ refuses -----------------------------------------------------------------------------------------


def publish(exchange: str, key: str, **properties: Any) -> Callable[[Channel], object]:
    return lambda channel: channel.basic_publish(exchange, key, b"{}", pika.BasicProperties(**properties))


def bind_own(exchange: str, key: str) -> Callable[[Channel], object]:
    """Bind an own queue to an exchange."""

    def bind(channel: Channel) -> object:
        return channel.queue_bind(channel.queue_declare("", exclusive=True).method.queue, exchange, key)

    return bind


def bind_llm_queue(exchange: str, key: str) -> Callable[[Channel], object]:
    return lambda channel: channel.queue_bind("llm.vega.work", exchange, key)


def own_queue_with_dead_letters_to(exchange: str, key: str) -> Callable[[Channel], object]:
    """Declare a queue whose expired messages RabbitMQ publishes elsewhere."""
    arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key}
    return lambda channel: channel.queue_declare("llm.vega.trap", exclusive=True, arguments=arguments)


def consume(queue: str) -> Callable[[Channel], object]:
    return lambda channel: channel.basic_consume(queue, print)


BY_AN_LLM: dict[str, Callable[[Channel], object]] = {
    "read another LLM's work": consume("llm.atlas.work"),
    "take one assignment of another LLM": lambda channel: channel.basic_get("llm.atlas.work"),
    "read another LLM's mailbox": consume("llm.atlas"),
    "read a person's mailbox": consume("user.ana"),
    "read the coordinator's inbox": consume("fluffle.coordinator"),
    "read what was rejected": consume("fluffle.rejected"),
    "empty another LLM's work queue": lambda channel: channel.queue_purge("llm.atlas.work"),
    "delete another LLM's work queue": lambda channel: channel.queue_delete("llm.atlas.work"),
    "listen to another LLM's assignments": bind_llm_queue("fluffle.work", "llm.atlas"),
    "listen to another LLM's messages": bind_llm_queue("fluffle.messages", "llm.atlas"),
    "listen to all messages": bind_llm_queue("fluffle.messages", "#"),
    "have another LLM's messages in its own mailbox": bind_llm_queue("fluffle.mailboxes", "llm.atlas"),
    "have everybody's messages in its own mailbox": bind_llm_queue("fluffle.mailboxes", "#"),
    "put messages into mailboxes behind the coordinator's back": publish("fluffle.mailboxes", "llm.atlas"),
    "listen to what other LLMs report": bind_llm_queue("fluffle.status", "#"),
    "publish to the default exchange": publish("", "llm.atlas.work"),
    "assign a task": publish("fluffle.work", "llm.atlas"),
    "report another LLM's result": publish(STATUS, "atlas.result", user_id="vega"),
    "claim in another LLM's name": publish(STATUS, "atlas.claim", user_id="vega"),
    "publish an event": publish("fluffle.events", "task.completed.vega"),
    "publish to the rejected queue": publish("fluffle.rejected", "rejected.x"),
    "ask for other tasks": publish(QUERIES, "tasks"),
    "request what only people may": publish(TASKS, "submit"),
    "request in another LLM's name": publish(REQUESTS, "atlas.submit"),
    "have expired messages published as assignments": own_queue_with_dead_letters_to("fluffle.work", "llm.atlas"),
    "have expired messages published to a queue": own_queue_with_dead_letters_to("", "llm.atlas.work"),
    "declare a queue of another LLM": lambda channel: channel.queue_declare("llm.atlas.more"),
}
BY_A_CLIENT: dict[str, Callable[[Channel], object]] = {
    "read an LLM's work": consume("llm.atlas.work"),
    "read an LLM's mailbox": consume("llm.atlas"),
    "read another person's mailbox": consume("user.bo"),
    "read what was rejected": consume("fluffle.rejected"),
    "listen to assignments": bind_own("fluffle.work", "llm.atlas"),
    "listen to all messages": bind_own("fluffle.messages", "#"),
    "have another person's messages in a queue of its own": bind_own("fluffle.mailboxes", "user.bo"),
    "listen to all that LLMs report": bind_own(STATUS, "#"),
    "listen to submissions": bind_own(TASKS, "submit"),
    "publish to the default exchange": publish("", "fluffle.coordinator"),
    "report in an LLM's name": publish(STATUS, "atlas.result"),
    "publish an event": publish("fluffle.events", "task.completed.atlas"),
    "delete the coordinator's inbox": lambda channel: channel.queue_delete("fluffle.coordinator"),
    "delete an exchange": lambda channel: channel.exchange_delete(TASKS),
}


@pytest.mark.parametrize(
    ("user", "operation"),
    [
        *(pytest.param("vega", operation, id=f"an LLM: {what}") for what, operation in BY_AN_LLM.items()),
        *(pytest.param("ana", operation, id=f"a client: {what}") for what, operation in BY_A_CLIENT.items()),
    ],
)
def test_rabbitmq_refuses_operations_outside_the_role(
    rights: RoleUsers, site: Site, user: str, operation: Callable[[Channel], object]
) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(rights.url_of[user]))
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker) as refused:
        operation(channel)
    connection.close()
    assert refused.value.reply_code == REFUSED, refused.value.reply_text


@pytest.mark.parametrize(("exchange", "key"), [(REQUESTS, "vega.submit"), (STATUS, "vega.hello")])
def test_rabbitmq_refuses_a_message_with_the_user_id_of_another_user(vega: Amqp, exchange: str, key: str) -> None:
    with pytest.raises(ChannelClosedByBroker) as refused:
        vega.publish(exchange, key, HELLO, user_id="atlas")
    assert refused.value.reply_code == FORGED


# -- what the coordinator refuses ----------------------------------------------------------------------------------


def test_a_task_without_a_user_is_rejected_and_its_sender_is_answered(
    ana: Amqp, rejected: Callable[[], Message]
) -> None:
    answers = ana.queue()
    ana.submit({"description": "anything"}, reply_to=answers)
    refusal = ana.take(answers)
    assert refusal.type == "task.rejected"
    assert [error["path"] for error in refusal.json()["errors"]] == ["user_id"]
    assert list(problems(rejected())) == ["user_id"]


@pytest.mark.parametrize("user", [None, "fluffle"])
def test_a_report_is_accepted_only_from_the_user_of_its_llm(
    site: Site, rejected: Callable[[], Message], user: str | None
) -> None:
    with amqp(site.url) as operator:  # may publish everything
        operator.publish(STATUS, "nova.hello", {"name": "nova", "instance": "n1"}, user_id=user)
    assert list(problems(rejected())) == ["user_id"]
    assert site.select("select name from llms where name = 'nova'") == []


def test_an_llm_can_neither_claim_nor_complete_the_task_of_another(
    site: Site, ana: Amqp, vega: Amqp, rejected: Callable[[], Message], tmp_path: Path
) -> None:
    held = {"until": str(tmp_path / "never")}
    task_id = submitted(ana, "ana", {"description": "anything", "assignee": "atlas", "inputs": held})
    until(lambda: status_of(site, task_id) == "in_progress", "atlas works on it")
    mine = {"task_id": task_id, "attempt": 1, "instance": "v1"}
    vega.publish(STATUS, "vega.claim", mine, user_id="vega")
    vega.publish(STATUS, "vega.result", {**mine, "outcome": "completed", "result": "stolen"}, user_id="vega")
    assert problems(rejected()) == {"attempt": "vega has never had attempt 1 of this task"}
    assert status_of(site, task_id) == "in_progress"
    ana.publish(TASKS, "cancel", {"id": task_id}, user_id="ana")
    until(lambda: status_of(site, task_id) == "cancelled", "it is over")


def message(sender: str, receiver: str) -> dict[str, str]:
    return {"sender": sender, "receiver": receiver, "content": "hello"}


@pytest.mark.parametrize("sender", ["llm.atlas", "user.ana", "user.bo"])
def test_a_message_is_accepted_only_from_the_user_of_its_sender(
    vega: Amqp,
    ana: Amqp,
    rights: RoleUsers,
    rejected: Callable[[], Message],
    monkeypatch: pytest.MonkeyPatch,
    sender: str,
) -> None:
    vega.publish("fluffle.messages", "user.ana", message(sender, "user.ana"), user_id="vega")
    assert problems(rejected()) == {"sender": f"is {sender!r}, but the RabbitMQ user 'vega' published the message"}
    vega.publish("fluffle.messages", "user.ana", message("llm.vega", "user.ana"), user_id="vega")
    monkeypatch.setenv("FLUFFLE_REQUIRE_IDENTITY", "true")
    until(lambda: ana.depth("user.ana") == 2, "both are in the mailbox")
    assert [it.sender for it in asyncio.run(inbox(rights.url_of["ana"]))] == ["llm.vega"]


async def inbox(url: str) -> list[Mail]:
    """Take all messages out of the mailbox of the user of that URL."""
    async with Client(url) as client:
        return [it async for it in client.inbox(wait=False)]


async def test_people_send_messages_under_their_own_names(
    rights: RoleUsers, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUFFLE_REQUIRE_IDENTITY", "true")
    async with Client(rights.url_of["ana"]) as ana:
        await ana.send("user.bo", "good morning")
    [shown] = await inbox(rights.url_of["bo"])
    assert (shown.sender, shown.content) == ("user.ana", "good morning")


@pytest.mark.parametrize(
    "hidden", [b"", b"\x01aT" + (2**62).to_bytes(8, "big")], ids=["", "beside what nobody can read"]
)
def test_a_dead_letter_from_another_queue_does_not_act_for_its_sender(
    site: Site, ana: Amqp, rejected: Callable[[], Message], hidden: bytes
) -> None:
    arguments = {"x-dead-letter-exchange": TASKS, "x-dead-letter-routing-key": "submit", "x-message-ttl": 0}
    with amqp(site.url) as operator:
        operator.channel.exchange_declare("user.ana.x", "fanout")
        operator.channel.queue_declare("llm.vega.steal", arguments=arguments)
        operator.bind("llm.vega.steal", ("user.ana.x", ""))
        try:
            given: dict[str, Any] = {"raw": user_and_headers(b"ana", hidden)} if hidden else {"user_id": "ana"}
            ana.publish("user.ana.x", "", {"description": "stolen"}, **given)
            assert list(problems(rejected())) == ["headers.x-death"]
        finally:
            operator.delete("llm.vega.steal")
            operator.channel.exchange_delete("user.ana.x")


def user_and_headers(user: bytes, table: bytes) -> bytes:
    """Return the bytes of properties with a user and headers alone."""
    return b"\x20\x10" + len(table).to_bytes(4, "big") + table + bytes([len(user)]) + user


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("CC", {"headers.CC": "is not allowed: publish the message once for each receiver"}),
        ("BCC", {"name": "is 'atlas', but"}),
    ],
)
def test_cc_and_bcc_headers_do_not_let_an_llm_act_for_another(
    site: Site, vega: Amqp, rejected: Callable[[], Message], header: str, told: dict[str, str]
) -> None:
    goodbye = {"name": "atlas", "instance": "whichever"}
    refusal = None
    try:
        vega.publish(STATUS, "vega.goodbye", goodbye, user_id="vega", headers={header: ["atlas.goodbye"]})
    except ChannelClosedByBroker as error:
        refusal = error.reply_code
    if refusal is not None:  # RabbitMQ 4 checks these keys, too
        assert refusal == REFUSED
    else:
        found = problems(rejected())
        assert found.keys() == told.keys()
        assert all(found[path].startswith(told[path]) for path in told)
    assert site.select("select state from llms where name = 'atlas'") == [("online",)]


@pytest.mark.parametrize("queue", ["llm.atlas.work", "llm.atlas", "user.bo", "fluffle.coordinator", "fluffle.rejected"])
def test_the_coordinator_is_not_made_to_publish_to_the_queues_of_others(
    site: Site, ana: Amqp, rejected: Callable[[], Message], queue: str
) -> None:
    ana.submit({"description": "anything"}, reply_to=queue, user_id="ana")
    assert list(problems(rejected())) == ["reply_to"]
    ana.publish(QUERIES, "llms", {}, reply_to=queue, user_id="ana")
    answers = ana.queue()
    ana.publish(QUERIES, "llms", {}, reply_to=answers, user_id="ana")
    assert ana.take(answers).type == "query.answer"


def test_an_llm_cancels_only_tasks_that_it_has_submitted(site: Site, ana: Amqp, vega: Amqp) -> None:
    theirs = submitted(ana, "ana", {"description": "anything", "assignee": "nobody", "force": True})
    answers = vega.queue(name="llm.vega.answers")
    own = {"id": "vega.own", "description": "-", "assignee": "nobody", "force": True}
    vega.publish(REQUESTS, "vega.submit", own, reply_to=answers, user_id="vega")
    assert vega.take(answers).type == "task.accepted"
    vega.publish(REQUESTS, "vega.cancel", {"id": theirs}, reply_to=answers, user_id="vega")
    refusal = vega.take(answers)
    assert refusal.type == "task.rejected"
    assert "vega is an LLM" in refusal.json()["errors"][0]["message"]
    vega.publish(REQUESTS, "vega.cancel", {"id": "vega.own"}, reply_to=answers, user_id="vega")
    assert {vega.take(answers).type for _ in range(2)} == {"task.cancelled"}
    assert status_of(site, theirs) == "pending"


def test_nobody_receives_the_answers_to_the_task_of_another_user(
    ana: Amqp, connect: Callable[[str], Amqp], rejected: Callable[[], Message]
) -> None:
    task_id = submitted(ana, "ana", {"description": "anything", "assignee": "nobody", "force": True})
    bo = connect("bo")
    answers = bo.queue()
    bo.submit({"id": task_id, "description": "anything"}, reply_to=answers, user_id="bo")
    assert bo.take(answers).type == "task.rejected"
    assert problems(rejected()) == {"id": "is the ID of a task that somebody else has submitted"}
