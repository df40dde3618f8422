"""The role of a user comes from its grant: an LLM tries requests of people and of other LLMs."""

from collections.abc import Callable

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from broker.protocol.topology import LLM_REQUESTS, TASK_KEYS
from tests.support.amqp import Amqp
from tests.support.llm_user import NOBODY, REFUSED, Llm, submitted
from tests.support.role_users import RoleUsers
from tests.support.site import Site


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
