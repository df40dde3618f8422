"""The role of a user comes from its grant. LLM users try operations of people and of other LLMs."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker
from playwright.sync_api import expect

from broker.access.roles import MOST_CONNECTIONS, Permissions, Role, TopicPermission, permissions
from broker.protocol.topology import LLM_REQUESTS, TASK_KEYS
from broker.protocol.worker_reports import Progress
from fluffle.client.client import Client
from tests.support.amqp import Amqp, Message, amqp
from tests.support.browser import WITHIN, addresses, browser, chromium, visit
from tests.support.processes import fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.role_users import RoleUsers
from tests.support.shell import Shell
from tests.support.site import Site, site_on

expect.set_options(timeout=WITHIN)

REFUSED = 403  # AMQP reply code: access refused
NOBODY = {"assignee": "nobody", "force": True}


@pytest.fixture(scope="module")
def rights(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> RoleUsers:
    """Users for a coordinator, the web page, the LLMs atlas, vega and luna, and the people ana and bo."""
    rights = RoleUsers(rabbitmq, tmp_path_factory.mktemp("users"))
    rights.grant(Role.COORDINATOR)
    rights.grant(Role.WEB)
    for name in ("atlas", "vega", "luna"):
        rights.grant(Role.LLM, name)
    for name in ("ana", "bo"):
        rights.grant(Role.CLIENT, name)
    return rights


@pytest.fixture(scope="module")
def site(rabbitmq: NodeInfo, rights: RoleUsers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator that requires identity. Atlas and vega have sent hello; luna stays silent."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("site"), FLUFFLE_REQUIRE_IDENTITY="true") as site:
        asyncio.run(rights.declare())
        names = ("atlas", "vega", "luna")
        site.queues.update({"fluffle.undelivered", "user.ana", "user.bo", "user.web"})
        site.queues.update(f"llm.{name}{kind}" for name in names for kind in ("", ".work"))
        site.coordinator(url=rights.url_of["coordinator"])
        for name in ("atlas", "vega"):
            with amqp(rights.url_of[name]) as llm:
                llm.publish(
                    "fluffle.status", f"{name}.hello", {"name": name, "instance": "i", "slots": 99}, user_id=name
                )
        until(lambda: len(site.select("select 1 from llms")) == 2, "both are known")
        yield site


def submitted(ana: Amqp, **task: Any) -> str:
    """Submit a task as ana and return its id once it is accepted."""
    answers = ana.queue()
    ana.submit({"description": "ana's secret", **task}, reply_to=answers, user_id="ana")
    accepted = ana.take(answers)
    assert accepted.type == "task.accepted", accepted.body
    return str(accepted.json()["id"])


class Llm:
    """A user with the rights of an LLM that sends requests to the coordinator."""

    def __init__(self, client: Amqp, name: str) -> None:
        self.client = client
        self.name = name
        self._answers = client.queue(name=f"llm.{name}.answers")

    def ask(self, verb: str, body: Any, **properties: Any) -> Message:
        """Send a request and return its answer."""
        self.client.publish(
            "fluffle.requests", f"{self.name}.{verb}", body, reply_to=self._answers, user_id=self.name, **properties
        )
        return self.client.take(self._answers)

    def refusal(self, verb: str, body: Any) -> dict[str, str]:
        """Send a request and return its errors by path."""
        answer = self.ask(verb, body)
        assert answer.type == "task.rejected", answer.body
        return {error["path"]: error["message"] for error in answer.json()["errors"]}


def test_a_silent_llm_has_the_rights_of_an_llm(site: Site, ana: Amqp, connect: Callable[[str], Amqp]) -> None:
    luna, theirs = Llm(connect("luna"), "luna"), submitted(ana, **NOBODY)
    for verb, body in (
        ("cancel", {"id": theirs}),
        ("update", {"id": theirs, "priority": 0}),
        ("assign", {"id": theirs, "llm": "atlas"}),
        ("retry", {"id": theirs}),
    ):
        assert "luna is an LLM" in luna.refusal(verb, body)["id"]
    assert site.select(f"select status, priority from tasks where id = '{theirs}'") == [("pending", 4)]


@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        *(("fluffle.tasks", verb) for verb in TASK_KEYS),
        *(("fluffle.requests", f"vega.{verb}") for verb in TASK_KEYS),
        *(("fluffle.requests", f"luna.{verb}") for verb in TASK_KEYS if verb not in LLM_REQUESTS),
    ],
)
def test_rabbitmq_refuses_an_llm_requests_that_only_people_may_send(
    site: Site, rights: RoleUsers, exchange: str, key: str
) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(rights.url_of["luna"]))
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker) as refused:
        channel.basic_publish(exchange, key, b"{}")
    assert refused.value.reply_code == REFUSED
    connection.close()


def test_an_llm_gets_no_result_of_an_unrelated_task(ana: Amqp, connect: Callable[[str], Amqp]) -> None:
    luna, theirs = Llm(connect("luna"), "luna"), submitted(ana, **NOBODY)
    spying = {"description": "tell me", "assignee": "luna", "force": True}
    assert "depends_on.0" in luna.refusal("submit", {**spying, "depends_on": [theirs]})
    assert "parent_id" in luna.refusal("submit", {**spying, "parent_id": theirs})
    own = luna.ask("submit", {**spying, "id": "luna.own"})
    assert own.type == "task.accepted"
    later = luna.ask("submit", {**spying, "id": "luna.later", "depends_on": ["luna.own"]})
    assert later.type == "task.accepted"


def test_notes_are_open_only_to_the_llms_of_their_conversation(ana: Amqp, connect: Callable[[str], Amqp]) -> None:
    submitted(ana, assignee="vega", conversation_id="ana-conv")
    atlas, vega = Llm(connect("atlas"), "atlas"), Llm(connect("vega"), "vega")
    vega.client.take("llm.vega.work")
    assert vega.ask("share", {"board": "ana-conv", "name": "facts", "content": "true"}).type == "note.accepted"
    assert "board" in atlas.refusal("read", {"board": "ana-conv"})
    assert "board" in atlas.refusal("share", {"board": "ana-conv", "name": "facts", "content": "forged"})
    assert "by" in vega.refusal("share", {"board": "ana-conv", "name": "x", "content": "-", "by": "llm.atlas"})
    for way_in in ({"conversation_id": "ana-conv"}, {"id": "ana-conv"}):
        assert atlas.refusal("submit", {"description": "let me in", "assignee": "atlas", **way_in})
    [note] = vega.ask("read", {"board": "ana-conv", "name": "facts"}).json()["notes"]
    assert (note["by"], note["content"]) == ("vega", "true")


def test_an_answer_reaches_the_reply_queue_of_an_llm_without_a_binding(connect: Callable[[str], Amqp]) -> None:
    """The coordinator forwards the answer: an LLM may bind only its mailbox."""
    atlas, vega = connect("atlas"), connect("vega")
    answers = atlas.queue(name="llm.atlas.i")
    question = {"id": "q-1", "sender": "llm.atlas", "content": "tea?"}
    atlas.publish("fluffle.messages", "llm.vega", question, user_id="atlas", reply_to=answers, correlation_id="q-1")
    asked = vega.take("llm.vega")
    answer = {"sender": "llm.vega", "receiver": "llm.atlas", "content": "yes", "in_reply_to": "q-1"}
    vega.publish("fluffle.messages", str(asked.properties.reply_to), answer, user_id="vega", correlation_id="q-1")
    assert atlas.take(answers).json()["content"] == "yes"


# -- in the name of others -----------------------------------------------------------------------------------------


async def test_only_text_published_by_the_llm_itself_is_shown_as_its_text(
    site: Site,
    rights: RoleUsers,
    ana: Amqp,
    connect: Callable[[str], Amqp],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The operator creates the dead letters and bindings here: an LLM cannot."""
    monkeypatch.setenv("FLUFFLE_REQUIRE_IDENTITY", "true")
    waiting, theirs = submitted(ana, **NOBODY), submitted(ana, assignee="vega")
    atlas, vega = connect("atlas"), connect("vega")
    until(lambda: vega.take("llm.vega.work").json()["task_id"] == theirs, "vega has the task")

    def wrote(task_id: str, text: str) -> dict[str, Any]:
        return {"task_id": task_id, "attempt": 1, "instance": "i", "text": text}

    async with Client(rights.url_of["ana"]) as client, client.watch(theirs, waiting, progress=True) as told:
        with amqp(site.url) as operator:
            forge_by_dead_letter(operator, wrote(theirs, "dead letter"))
            forge_by_binding(operator, wrote(theirs, "binding"))
        atlas.publish("fluffle.status", "atlas.progress", wrote(theirs, "own name"), user_id="atlas")
        atlas.publish("fluffle.status", "atlas.progress", wrote(waiting, "nobody has it"), user_id="atlas")
        vega.publish("fluffle.status", "vega.progress", wrote(theirs, "genuine"), user_id="vega")
        async for it in told:
            if isinstance(it, Progress):
                assert it.text == "genuine"
                break


def forge_by_dead_letter(operator: Amqp, body: dict[str, Any]) -> None:
    arguments = {"x-dead-letter-exchange": "fluffle.status", "x-dead-letter-routing-key": "vega.progress"}
    operator.declare("forge.dead", {**arguments, "x-message-ttl": 0})
    operator.publish("", "forge.dead", body, user_id="fluffle")
    until(lambda: operator.depth("forge.dead") == 0, "it is a dead letter")
    operator.delete("forge.dead")


def forge_by_binding(operator: Amqp, body: dict[str, Any]) -> None:
    with operator.exchange("forge.exchange", bound_to="fluffle.status"):
        operator.publish("forge.exchange", "vega.progress", body, user_id="fluffle")


def test_an_llm_cannot_route_messages_through_its_own_queues_and_exchanges(site: Site, rights: RoleUsers) -> None:
    """An LLM can bind neither an own queue nor an own exchange, nor change its mailbox."""
    dead = {"x-message-ttl": 0, "x-dead-letter-exchange": "fluffle.messages", "x-dead-letter-routing-key": "all"}
    attempts: dict[str, Callable[[Any], object]] = {
        "bind a queue": lambda ch: ch.queue_bind(
            ch.queue_declare("llm.atlas.trap", exclusive=True).method.queue, "fluffle.mailboxes", "all"
        ),
        "bind an exchange to the status exchange": lambda ch: (
            ch.exchange_declare("llm.atlas.x", auto_delete=True),
            ch.exchange_bind("fluffle.status", "llm.atlas.x", "#"),
            ch.basic_publish("llm.atlas.x", "vega.progress", b"{}"),
        ),
        "bind an exchange to the mailboxes": lambda ch: (
            ch.exchange_declare("llm.atlas.y", auto_delete=True),
            ch.exchange_bind("llm.atlas.y", "fluffle.mailboxes", "all"),
        ),
        "declare its mailbox": lambda ch: ch.queue_declare("llm.atlas", arguments=dead, durable=True),
        "delete its mailbox": lambda ch: ch.queue_delete("llm.atlas"),
        "declare its work queue": lambda ch: ch.queue_declare("llm.atlas.work", arguments=dead, durable=True),
    }
    for what, attempt in attempts.items():
        connection = pika.BlockingConnection(pika.URLParameters(rights.url_of["atlas"]))
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as refused:
            attempt(channel)
        assert refused.value.reply_code == REFUSED, what
        connection.close()


async def test_a_message_republished_by_a_dead_lettering_queue_is_ignored(
    site: Site, rights: RoleUsers, ana: Amqp, connect: Callable[[str], Amqp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of ana to atlas must not reach bo in her name, and she must not get an error for it."""
    monkeypatch.setenv("FLUFFLE_REQUIRE_IDENTITY", "true")
    answers = ana.queue()
    dead = {"x-message-ttl": 0, "x-dead-letter-exchange": "fluffle.messages", "x-dead-letter-routing-key": "user.bo"}
    with amqp(site.url) as operator:
        operator.declare("trap", dead)
        operator.bind("trap", ("fluffle.mailboxes", "llm.atlas"))
        for stolen in (
            {"sender": "user.ana", "content": "a question for atlas"},
            {"sender": "user.ana", "receiver": "llm.atlas", "content": "an answer for atlas", "in_reply_to": "m-1"},
            {"sender": "user.ana", "receiver": "llm.atlas", "content": "more for atlas"},
        ):
            ana.publish("fluffle.messages", "llm.atlas", stolen, user_id="ana", reply_to=answers)
            until(lambda: operator.depth("user.bo") > 0, "the dead letter is in the mailbox")
            async with Client(rights.url_of["bo"]) as bo:
                assert [it async for it in bo.inbox(wait=False)] == []
            assert operator.take("llm.atlas")
            until(lambda: was_dead_letter(operator.take_all("fluffle.rejected")), "the coordinator has refused it")
        operator.delete("trap")
    assert ana.depth(answers) == 0


@pytest.mark.parametrize("count", [3, 5])
def test_the_queues_of_an_llm_multiply_no_message_to_everybody(
    site: Site, ana: Amqp, connect: Callable[[str], Amqp], count: int
) -> None:
    """Queues that publish to `all` again what they get from there would make 16 messages of one, or 326."""
    dead = {"x-message-ttl": 0, "x-dead-letter-exchange": "fluffle.messages", "x-dead-letter-routing-key": "all"}
    for number in range(count):
        atlas = connect("atlas")
        atlas.declare(f"llm.atlas.amplifier-{number}", dead)
        with pytest.raises(ChannelClosedByBroker) as refused:
            atlas.bind(f"llm.atlas.amplifier-{number}", ("fluffle.mailboxes", "all"))
        assert refused.value.reply_code == REFUSED
    with amqp(site.url) as operator:
        operator.take_all("user.bo")
        for content in ("hello", "the last"):
            ana.publish("fluffle.messages", "all", {"sender": "user.ana", "content": content}, user_id="ana")
        assert [operator.take("user.bo").json()["content"] for _ in range(2)] == ["hello", "the last"]
        assert operator.depth("user.bo") == 0
        for name in ("llm.atlas", "llm.vega", "llm.luna", "user.ana"):
            operator.take_all(name)
        operator.delete(*(f"llm.atlas.amplifier-{number}" for number in range(count)))


async def test_an_answer_that_a_queue_of_an_llm_has_published_again_is_read_by_nobody(
    site: Site, rights: RoleUsers, ana: Amqp, connect: Callable[[str], Amqp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An LLM names a queue of its own for the answer to a question, and has it publish to others what comes there."""
    monkeypatch.setenv("FLUFFLE_REQUIRE_IDENTITY", "true")
    dead = {"x-message-ttl": 0, "x-dead-letter-exchange": "fluffle.messages", "x-dead-letter-routing-key": "user.bo"}
    connect("atlas").declare("llm.atlas.answers-2", dead)
    answers = ana.queue()
    answer = {"sender": "user.ana", "receiver": "llm.atlas", "content": "for atlas", "in_reply_to": "q-2"}
    ana.publish("fluffle.messages", "llm.atlas.answers-2", answer, user_id="ana", reply_to=answers)
    with amqp(site.url) as operator:
        until(lambda: operator.depth("user.bo") > 0, "the dead letter is in the mailbox")
        async with Client(rights.url_of["bo"]) as bo:
            assert [it async for it in bo.inbox(wait=False)] == []
        until(lambda: was_dead_letter(operator.take_all("fluffle.rejected")), "the coordinator has refused it")
        operator.delete("llm.atlas.answers-2")
    assert ana.depth(answers) == 0


def was_dead_letter(rejected: list[Message]) -> bool:
    """Return whether one of these was rejected because it was a dead letter."""
    return any("headers.x-death" in it.headers["x-fluffle-errors"] for it in rejected)


def test_the_page_shows_only_what_the_llm_of_the_task_itself_publishes(
    site: Site, rights: RoleUsers, ana: Amqp, connect: Callable[[str], Amqp]
) -> None:
    chromium()
    for name in ("atlas", "vega"):
        hello = {"name": name, "instance": "i", "slots": 99}
        connect(name).publish("fluffle.status", f"{name}.hello", hello, user_id=name)
    waiting, theirs = submitted(ana, **NOBODY), submitted(ana, assignee="vega")
    atlas, vega = connect("atlas"), connect("vega")
    until(lambda: vega.take("llm.vega.work").json()["task_id"] == theirs, "vega has the task")
    vega.publish("fluffle.status", "vega.claim", {"task_id": theirs, "attempt": 1, "instance": "i"}, user_id="vega")

    def wrote(task_id: str, text: str) -> dict[str, Any]:
        return {"task_id": task_id, "attempt": 1, "instance": "i", "text": text}

    identity = {"FLUFFLE_REQUIRE_IDENTITY": "true"}
    with (
        fluffle("web", "--port", "0", url=rights.url_of["web"], state=site.state, until="to look", env=identity) as web,
        amqp(site.url) as operator,
        browser() as running,
    ):
        base, _, to_look = addresses(web)
        with visit(running, base, to_look) as one, visit(running, base, to_look) as other:
            one.go(f"/tasks/{waiting}")
            page = other.go(f"/tasks/{theirs}")
            expect(page.locator(".streaming")).to_be_attached()
            forge_by_dead_letter(operator, wrote(theirs, "EVIL dead letter"))
            forge_by_binding(operator, wrote(theirs, "EVIL binding"))
            for task_id in (theirs, waiting):
                atlas.publish("fluffle.status", "atlas.progress", wrote(task_id, "EVIL own name"), user_id="atlas")
            vega.publish("fluffle.status", "vega.progress", wrote(theirs, "genuine"), user_id="vega")
            expect(page.locator(".streaming")).to_have_text("genuine")
            for text in (page.content(), one.page.content()):
                assert "EVIL" not in text


# -- what is left --------------------------------------------------------------------------------------------------


def test_the_queues_of_an_llm_are_bounded_and_so_are_its_connections(
    site: Site, rights: RoleUsers, rabbitmq: NodeInfo
) -> None:
    found = json.loads(rabbitmq.control("export_definitions", "-", "--silent"))
    [policy] = [it["value"] for it in found["parameters"] if it["component"] == "operator_policy"]
    assert policy["definition"] == {"max-length": 100_000, "max-length-bytes": 64 * 1024**2, "expires": 3_600_000}
    bounded = [name for name in ("llm.luna.flood", "llm.luna", "llm.luna.work") if re.search(policy["pattern"], name)]
    assert bounded == ["llm.luna.flood"]
    limits = {it["name"]: it["limits"] for it in found["users"]}
    assert limits["luna"] == {"max-connections": 200, "max-channels": 400}
    assert limits["ana"] == {}


def test_a_queue_of_an_llm_takes_no_more_than_its_bounds(site: Site, connect: Callable[[str], Amqp]) -> None:
    connect("luna").declare("llm.luna.flood", {})
    with amqp(site.url) as operator:
        for _ in range(80):
            operator.publish("", "llm.luna.flood", b"x" * 1_000_000)
        assert operator.depth("llm.luna.flood") <= 67  # of 1 MB, in 64 MiB
        operator.delete("llm.luna.flood")


def test_an_llm_has_no_more_connections_than_its_limit(site: Site, rights: RoleUsers) -> None:
    taken = 0
    with ExitStack() as open_ones, suppress(AMQPError):
        while taken <= MOST_CONNECTIONS:
            open_ones.enter_context(amqp(rights.url_of["luna"]))
            taken += 1
    assert 0 < taken <= MOST_CONNECTIONS


def test_rabbitmq_has_the_permissions_that_are_described_for_every_role_and_no_others(
    site: Site, rights: RoleUsers, rabbitmq: NodeInfo
) -> None:
    """What is described is compared with `permissions` in tests/unit/test_docs.py."""
    found = json.loads(rabbitmq.control("export_definitions", "-", "--silent"))
    roles = {role.tag: role for role in Role}
    users = {it["name"]: roles[tag] for it in found["users"] for tag in tags(it) if tag in roles}
    assert set(users.values()) == set(Role)
    for name, role in users.items():
        granted = permissions(role, name)
        assert [
            Permissions(it["configure"], it["write"], it["read"]) for it in of_user(found["permissions"], name)
        ] == [replace(granted, topics=())]
        topics = {
            TopicPermission(it["exchange"], it["write"], it["read"]) for it in of_user(found["topic_permissions"], name)
        }
        assert topics == set(granted.topics)


def tags(user: dict[str, Any]) -> list[str]:
    """Of a user in exported definitions: a list, and text where RabbitMQ is old."""
    return user["tags"].split(",") if isinstance(user["tags"], str) else list(user["tags"])


def of_user(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["user"] == name]


def test_revoke_leaves_nothing_behind(site: Site, rights: RoleUsers, rabbitmq: NodeInfo, tmp_path: Path) -> None:
    rights.operator("broker", "grant", "llm", "nova", "--out", str(tmp_path / "nova.url"))
    with amqp((tmp_path / "nova.url").read_text().strip()) as nova:
        nova.declare("llm.nova.keep", {})
    with amqp(site.url) as operator:
        operator.declare_exchange("llm.nova.x")
        operator.bind("llm.nova.keep", ("fluffle.status", "#"))
    printed = rights.operator("broker", "revoke", "nova")
    for name in ("llm.nova", "llm.nova.work", "llm.nova.keep", "llm.nova.x"):
        assert name in printed
    for kind in ("list_queues", "list_exchanges", "list_bindings"):
        assert "llm.nova" not in rabbitmq.control(kind, "--silent")


def test_a_user_with_outdated_rights_is_reported_and_repaired(
    rabbitmq: NodeInfo, rights: RoleUsers, tmp_path: Path
) -> None:
    shell = Shell(rights.operator.environment["FLUFFLE_AMQP_URL"], tmp_path)
    shell.environment.update(rabbitmq.settings)
    rabbitmq.control("set_permissions", "luna", ".*", ".*", ".*")
    assert "luna\tllm\tpassword\tchanged: run grant again" in shell("broker", "users")
    shell("broker", "grant", "llm", "luna")
    assert "luna\tllm\tpassword\tas granted" in shell("broker", "users")
