"""What the coordinator makes of messages between LLMs and people."""

from typing import Any

import pytest

from broker.errors import Problem
from broker.protocol.chat import COORDINATOR, Message, new_message
from broker.protocol.worker_reports import Presence
from coordinator.core.commands import AnnounceMessage, Command, DeliverMessage, Refuse
from coordinator.core.events import Heartbeat, MessageSent, MessageUndelivered, Sender
from coordinator.core.tasks.chat import ANSWERED
from tests.support.core_driver import Core, moment

NOW = moment(0)


def said(content: str = "hello", **fields: Any) -> Message:
    given = {"sender": "user.ana", "receiver": "llm.ada", **fields}
    return new_message(given.pop("sender"), given.pop("receiver"), content, **given)


def handle(*events: MessageSent | MessageUndelivered) -> tuple[list[Command], Any]:
    """The commands, and what is to be stored."""
    machine = Core().machine
    commands = machine.handle(*events, now=NOW)
    return commands, machine.take_changes()


def undelivered(message: Message, key: str | None = None, **sender: Any) -> tuple[list[Command], Any]:
    event = MessageUndelivered(message, key or message.receiver, Sender(**sender))
    commands, changes = handle(event)
    assert commands[0] == AnnounceMessage(NOW, message)
    assert changes.messages == {message.id: (message, NOW)}
    return commands[1:], changes


def test_a_message_goes_into_the_history_and_everybody_is_told() -> None:
    message = said()
    commands, changes = handle(MessageSent(message))
    assert commands == [AnnounceMessage(NOW, message)]
    assert changes.messages == {message.id: (message, NOW)}


def test_a_message_that_comes_twice_in_a_batch_is_one() -> None:
    message = said()
    commands, changes = handle(MessageSent(message), MessageSent(said("another text", id=message.id)))
    assert commands == [AnnounceMessage(NOW, message)]
    assert changes.messages[message.id][0].content == "hello"


def test_an_answer_that_comes_before_its_question_is_told_to_the_history() -> None:
    machine = Core().machine
    question = said()
    answer, other = said("well", in_reply_to=question.id), said("no idea", in_reply_to="long-ago")
    machine.handle(MessageSent(answer), MessageSent(other), now=NOW)
    assert machine.take_changes().overtaken == {}
    machine.handle(MessageSent(question), now=NOW)
    assert machine.take_changes().overtaken == {question.id: [answer.id]}
    machine.handle(MessageSent(said(in_reply_to=question.id)), now=NOW)
    assert machine.take_changes().overtaken == {}


def test_only_the_last_answers_are_looked_after() -> None:
    machine = Core().machine
    for number in range(ANSWERED + 1):
        machine.handle(MessageSent(said(in_reply_to=f"q{number}")), now=NOW)
    machine.take_changes()
    machine.handle(MessageSent(said(id="q0")), MessageSent(said(id="q1")), now=NOW)
    assert list(machine.take_changes().overtaken) == ["q1"]


@pytest.mark.parametrize("first", ["sent", "undelivered"])
def test_a_message_that_found_no_mailbox_is_announced_once_whatever_comes_first(first: str) -> None:
    message = said()
    events = [MessageSent(message), MessageUndelivered(message, message.receiver)]
    commands, changes = handle(*(events if first == "sent" else events[::-1]))
    assert [type(command) for command in commands].count(AnnounceMessage) == 1
    assert changes.undelivered == [message.id]


def test_whoever_waits_for_an_answer_of_nobody_is_told_so() -> None:
    message = said()
    event = MessageUndelivered(message, message.receiver, Sender("ana", "replies", "c-1"), origin=3)
    commands, changes = handle(event)
    problem = Problem(
        "receiver",
        "nobody has the address llm.ada: no worker of that name has ever run; start one with `fluffle worker ada`",
    )
    assert commands[1:] == [Refuse(message.id, (problem,), "replies", "c-1", 3)]
    assert changes.undelivered == [message.id]


def test_a_person_who_waits_for_nothing_finds_a_notice_in_their_mailbox() -> None:
    message = said(receiver="group.readers")
    (_, notice), _ = undelivered(message)
    assert isinstance(notice, DeliverMessage)
    assert notice.to == "user.ana"
    assert (notice.message.sender, notice.message.in_reply_to) == (COORDINATOR, message.id)
    assert "nobody is in the group" in notice.message.content
    assert notice.message.conversation_id == message.conversation_id


def test_the_notice_of_a_message_that_comes_again_is_the_same() -> None:
    message = said()
    (_, first), _ = undelivered(message)
    (_, second), _ = undelivered(message)
    assert isinstance(first, DeliverMessage)
    assert isinstance(second, DeliverMessage)
    assert first.message.id == second.message.id


@pytest.mark.parametrize("sender", ["llm.bela", COORDINATOR])
def test_only_people_get_notices(sender: str) -> None:
    commands, _ = undelivered(said(sender=sender, receiver="user.bo"))
    assert [type(command) for command in commands] == [Refuse]


def answer(**fields: Any) -> Message:
    return said("42", sender="llm.ada", receiver="user.ana", in_reply_to="q", conversation_id="c", **fields)


@pytest.mark.parametrize(
    ("reply_to", "goes_to"),
    [
        ("user.ana.s1", "user.ana"),  # the session of a person has gone: to their mailbox
        ("llm.bela.i1", "llm.bela.i1"),  # the control queue of an LLM that asked
        ("amq.gen-x", "amq.gen-x"),
        ("amq.rabbitmq.reply-to.g1.x", "amq.rabbitmq.reply-to.g1.x"),
        ("fluffle.reply.1", "fluffle.reply.1"),
    ],
)
def test_an_answer_reaches_whoever_asked_in_another_way(reply_to: str, goes_to: str) -> None:
    message = answer()
    commands, changes = undelivered(message, reply_to, correlation_id="mine")
    assert commands == [DeliverMessage(message, goes_to, "mine")]
    assert changes.undelivered == []


@pytest.mark.parametrize("key", ["user.ana", "llm.bela", "fluffle.coordinator", "fluffle.rejected", "llm.bela.i1.x"])
def test_an_answer_is_not_brought_to_queues_that_are_none_of_its_business(key: str) -> None:
    commands, changes = undelivered(answer(), key)
    assert [type(command) for command in commands] == [Refuse]
    assert len(changes.undelivered) == 1


def test_a_question_is_never_brought_to_a_queue() -> None:
    commands, _ = undelivered(said(), "user.bo.s1", reply_to="replies")
    assert [type(command) for command in commands] == [Refuse]


def unnamed(known: int = 0, *, again: bool = False) -> MessageSent:
    return MessageSent(said(id="m"), unnamed=True, known=known, again=again)


@pytest.mark.parametrize(
    ("events", "ids"),
    [
        ([unnamed()], ["m"]),
        ([unnamed(), unnamed()], ["m", "m.2"]),
        ([unnamed(known=2), unnamed(known=2)], ["m.3", "m.4"]),
        ([unnamed(again=True)], ["m"]),
        ([unnamed(known=2, again=True)], ["m.2"]),
    ],
)
def test_what_says_the_same_without_an_id_is_another_message_unless_it_comes_again(
    events: list[MessageSent], ids: list[str]
) -> None:
    commands, changes = handle(*events)
    assert list(changes.messages) == ids
    assert [it.message.id for it in commands if isinstance(it, AnnounceMessage)] == ids


@pytest.mark.parametrize("order", [1, -1])
def test_a_message_without_an_id_that_comes_a_second_time_for_want_of_a_mailbox_is_recorded_once(order: int) -> None:
    lost = MessageUndelivered(said(id="m"), "llm.ada", unnamed=True)
    commands, changes = handle(*[unnamed(), lost][::order])
    assert (list(changes.messages), changes.undelivered) == (["m"], ["m"])
    assert len([it for it in commands if isinstance(it, Refuse)]) == 1


def test_an_answer_follows_an_llm_to_the_queue_that_it_has_after_a_reconnect() -> None:
    machine = Core().machine
    machine.handle(Heartbeat(Presence(name="bo", instance="i1"), "llm.bo.i1.2"), now=NOW)
    answer = said(sender="llm.ada", receiver="llm.bo", in_reply_to="q-1")
    commands = machine.handle(MessageUndelivered(answer, "llm.bo.i1", Sender()), now=NOW)
    assert [it.to for it in commands if isinstance(it, DeliverMessage)] == ["llm.bo.i1.2"]
