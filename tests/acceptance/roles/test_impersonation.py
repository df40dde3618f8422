"""An LLM tries to publish, route or show messages in the name of others."""

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker
from playwright.sync_api import expect

from broker.protocol.worker_reports import Progress
from fluffle.client.client import Client
from tests.support.amqp import Amqp, Message, amqp
from tests.support.browser import WITHIN, addresses, browser, chromium, visit
from tests.support.llm_user import NOBODY, REFUSED, submitted
from tests.support.processes import fluffle, until
from tests.support.role_users import RoleUsers
from tests.support.site import Site

expect.set_options(timeout=WITHIN)


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
