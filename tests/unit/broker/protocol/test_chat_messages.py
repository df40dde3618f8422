"""Addresses, and what becomes of a message that leaves something out."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from broker.amqp.envelope import Delivery, Properties
from broker.chat_client import read_message, to_publish
from broker.errors import DecodeError
from broker.protocol.chat import Message, RecentIds, in_order, is_address, made_from, new_message, owner_of
from broker.protocol.topology import MESSAGES, mailbox
from fluffle.client.chat import address_of


def delivery(body: Any, key: str = "llm.ada", **properties: Any) -> Delivery:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    ack_batcher: Any = SimpleNamespace(is_open=False)
    return Delivery(MESSAGES, key, encoded, False, Properties(**properties), 1, ack_batcher)


HELLO = {"sender": "user.ana", "content": "hello"}


@pytest.mark.parametrize("address", ["llm.ada", "user.ana-b-2", "group.x", "all", f"llm.{'a' * 63}"])
def test_an_address_is_one(address: str) -> None:
    assert is_address(address)
    assert address_of(address) == address


@pytest.mark.parametrize(
    "text", ["", "llm.", "llm.Ada", "llm.ada.i1", "coordinator.x", "user.a_b", f"llm.{'a' * 64}", "all\n", "group"]
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_address(text)


def test_a_name_alone_is_an_llm() -> None:
    assert address_of("ada") == "llm.ada"


def test_a_session_belongs_to_an_address() -> None:
    assert owner_of("user.ana.0193-x") == "user.ana"
    assert owner_of("llm.ada.host-1") == "llm.ada"
    assert [owner_of(key) for key in ("user.ana", "group.x.y", "llm.ada.b.c", "amq.gen-1")] == [None] * 4


def test_the_least_that_is_a_message_gets_the_rest_from_its_way() -> None:
    message = read_message(delivery(HELLO, message_id="m-1"))
    assert (message.id, message.receiver, message.conversation_id) == ("m-1", "llm.ada", "m-1")
    assert message.sent_at.tzinfo is not None


def test_a_message_without_any_id_has_the_same_one_wherever_it_is_read() -> None:
    first, second = read_message(delivery(HELLO)), read_message(delivery(HELLO))
    assert first.id == second.id
    assert read_message(delivery(HELLO, key="llm.bela")).id != first.id
    assert read_message(delivery({**HELLO, "content": "another"})).id != first.id


def test_what_answers_belongs_to_the_conversation_of_what_it_answers() -> None:
    assert read_message(delivery({**HELLO, "in_reply_to": "m-1"})).conversation_id == "m-1"
    assert new_message("user.ana", "llm.ada", "x", in_reply_to="m-1").conversation_id == "m-1"
    named = {**HELLO, "in_reply_to": "m-2", "conversation_id": "m-1"}
    assert read_message(delivery(named)).conversation_id == "m-1"


def test_an_answer_that_goes_to_a_session_is_for_its_owner() -> None:
    answer = {"sender": "llm.ada", "content": "42", "in_reply_to": "m-1"}
    assert read_message(delivery(answer, key="user.ana.s1")).receiver == "user.ana"
    told = {**answer, "receiver": "user.ana"}
    assert read_message(delivery(told, key="amq.gen-x")).receiver == "user.ana"


@pytest.mark.parametrize("body", [{**HELLO, "receiver": "llm.bela"}, {**HELLO, "sender": "all"}, {"content": "x"}, []])
def test_what_contradicts_itself_is_no_message(body: Any) -> None:
    with pytest.raises(DecodeError):
        read_message(delivery(body))


def test_a_message_is_read_as_it_was_sent() -> None:
    message = new_message("user.ana", "llm.ada", "Grüße 🐇", metadata={"a": [1, None]})
    outgoing = to_publish(message)
    arrived = read_message(delivery(outgoing.body, outgoing.routing_key, message_id=outgoing.message_id))
    assert arrived == message
    assert isinstance(arrived, Message)


def test_an_id_that_is_made_again_is_the_same() -> None:
    assert made_from("q", "llm.ada") == made_from("q", "llm.ada") != made_from("q", "llm.bela")


def test_what_was_seen_is_known_until_too_much_came_after_it() -> None:
    seen = RecentIds(most=2)
    assert [seen.add(message_id) for message_id in ("a", "a", "b", "c", "a")] == [True, False, True, True, True]
    assert "b" not in seen


def test_a_person_may_look_at_a_message_again_and_again() -> None:
    (person,), (llm,) = mailbox("user.ana").queues, mailbox("llm.ada").queues
    assert (person.arguments["x-delivery-limit"], llm.arguments["x-delivery-limit"]) == (1_000_000, 20)


@pytest.mark.parametrize(
    ("came", "shown"),
    [
        ("a b:a c", "a b c"),
        ("b:a a c", "a b c"),
        ("c:b b:a d:b x a y", "x a b c d y"),
        ("b:gone a", "b a"),
        ("a:b b:a c c2:c2", "c a b c2"),
        ("", ""),
    ],
)
def test_an_answer_comes_behind_what_it_answers(came: str, shown: str) -> None:
    messages = []
    for told in came.split():
        id_, _, question = told.partition(":")
        messages.append(new_message("user.ana", "llm.ada", "hi", id=id_, in_reply_to=question or None))
    assert sorted(message.id for message in in_order(messages)) == sorted(shown.split())
    assert [message.id for message in in_order(messages)] == shown.split()
