"""Addresses, and the missing fields of messages."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from broker.amqp.envelope import Delivery, Properties
from broker.errors import DecodeError
from broker.messaging.chat_client import read_message, to_publish
from broker.protocol.chat import Message, in_order, is_address, made_from, new_message, owner_of
from broker.protocol.topology import MESSAGES, mailbox
from fluffle.client.methods.chat import address_of


def delivery(body: Any, key: str = "llm.ada", **properties: Any) -> Delivery:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    ack_batcher: Any = SimpleNamespace(is_open=False)
    return Delivery(MESSAGES, key, encoded, False, Properties(**properties), 1, ack_batcher)


HELLO = {"sender": "user.ana", "content": "hello"}


@pytest.mark.parametrize("address", ["llm.ada", "user.ana-b-2", "group.x", "all", f"llm.{'a' * 63}"])
def test_valid_addresses_are_accepted(address: str) -> None:
    assert is_address(address)
    assert address_of(address) == address


@pytest.mark.parametrize(
    "text", ["", "llm.", "llm.Ada", "llm.ada.i1", "coordinator.x", "user.a_b", f"llm.{'a' * 64}", "all\n", "group"]
)
def test_other_texts_are_not_addresses(text: str) -> None:
    assert not is_address(text)


def test_a_bare_name_is_the_address_of_an_llm() -> None:
    assert address_of("ada") == "llm.ada"


def test_a_session_belongs_to_an_address() -> None:
    assert owner_of("user.ana.0193-x") == "user.ana"
    assert owner_of("llm.ada.host-1") == "llm.ada"
    assert [owner_of(key) for key in ("user.ana", "group.x.y", "llm.ada.b.c", "amq.gen-1")] == [None] * 4


def test_missing_fields_of_a_message_come_from_its_delivery() -> None:
    message = read_message(delivery(HELLO, message_id="m-1"))
    assert (message.id, message.receiver, message.conversation_id) == ("m-1", "llm.ada", "m-1")
    assert message.sent_at.tzinfo is not None


def test_a_message_without_an_id_gets_the_same_id_from_every_reader() -> None:
    first, second = read_message(delivery(HELLO)), read_message(delivery(HELLO))
    assert first.id == second.id
    assert read_message(delivery(HELLO, key="llm.bela")).id != first.id
    assert read_message(delivery({**HELLO, "content": "another"})).id != first.id


def test_an_answer_belongs_to_the_conversation_of_its_question() -> None:
    assert read_message(delivery({**HELLO, "in_reply_to": "m-1"})).conversation_id == "m-1"
    assert new_message("user.ana", "llm.ada", "x", in_reply_to="m-1").conversation_id == "m-1"
    named = {**HELLO, "in_reply_to": "m-2", "conversation_id": "m-1"}
    assert read_message(delivery(named)).conversation_id == "m-1"


def test_an_answer_to_a_session_has_its_owner_as_receiver() -> None:
    answer = {"sender": "llm.ada", "content": "42", "in_reply_to": "m-1"}
    assert read_message(delivery(answer, key="user.ana.s1")).receiver == "user.ana"
    told = {**answer, "receiver": "user.ana"}
    assert read_message(delivery(told, key="amq.gen-x")).receiver == "user.ana"


@pytest.mark.parametrize("body", [{**HELLO, "receiver": "llm.bela"}, {**HELLO, "sender": "all"}, {"content": "x"}, []])
def test_a_contradictory_message_is_refused(body: Any) -> None:
    with pytest.raises(DecodeError):
        read_message(delivery(body))


def test_a_message_is_read_as_it_was_sent() -> None:
    message = new_message("user.ana", "llm.ada", "Grüße 🐇", metadata={"a": [1, None]})
    outgoing = to_publish(message)
    arrived = read_message(delivery(outgoing.body, outgoing.routing_key, message_id=outgoing.message_id))
    assert arrived == message
    assert isinstance(arrived, Message)


def test_the_same_texts_give_the_same_id() -> None:
    assert made_from("q", "llm.ada") == made_from("q", "llm.ada") != made_from("q", "llm.bela")


def test_a_person_may_view_a_message_many_times() -> None:
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
def test_an_answer_comes_after_its_question(came: str, shown: str) -> None:
    messages = []
    for told in came.split():
        id_, _, question = told.partition(":")
        messages.append(new_message("user.ana", "llm.ada", "hi", id=id_, in_reply_to=question or None))
    assert sorted(message.id for message in in_order(messages)) == sorted(shown.split())
    assert [message.id for message in in_order(messages)] == shown.split()
