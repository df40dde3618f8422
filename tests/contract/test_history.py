"""Messages in the database, and the queries about them."""

from typing import Any

import pytest
from pydantic_core import from_json
from sqlalchemy import Engine, delete, func, select

from broker.protocol.chat import Message, new_message
from broker.protocol.primitives import WireModel
from broker.protocol.queries import ConversationsQuery, MessagesQuery
from broker.protocol.views import ConversationPage, MessagePage
from broker.timestamps import Instant, Micros
from coordinator.core.state import StateChanges
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage import schema
from coordinator.storage.store import Store
from tests.support.stored_tasks import NOW, commit


@pytest.fixture
def queries(engine: Engine) -> QueryHandlers:
    return QueryHandlers(engine, clock=lambda: NOW, policy="earliest-finish", lease=Micros(1))


def said(number: int, sender: str = "user.ana", receiver: str = "llm.ada", **fields: Any) -> Message:
    content = fields.pop("content", f"message {number}")
    return new_message(sender, receiver, content, id=f"m{number}", **fields)


def keep(store: Store, *messages: Message, undelivered: tuple[str, ...] = ()) -> None:
    came = {message.id: (message, Instant(NOW + at)) for at, message in enumerate(messages)}
    commit(store, StateChanges(messages=came, undelivered=list(undelivered)))


def asked(queries: QueryHandlers, query: MessagesQuery | ConversationsQuery) -> tuple[str, Any]:
    kind, body = queries.answer(query.routing_key, query.encode())
    return kind, from_json(body)


def ids(queries: QueryHandlers, **filters: Any) -> list[str]:
    kind, page = asked(queries, MessagesQuery(**filters))
    assert kind == "query.answer"
    return [view.id for view in MessagePage.model_validate(page).messages]


def test_a_message_comes_back_as_it_was_sent(store: Store, queries: QueryHandlers) -> None:
    message = said(1, content="NUL-free 日本 🐇 'quoted' %s ?", metadata={"a": [1, None, "\0"]}, in_reply_to="m0")
    keep(store, message)
    _, page = asked(queries, MessagesQuery())
    (view,) = MessagePage.model_validate(page).messages
    assert view.model_dump(exclude={"delivered"}) == message.model_dump()
    assert view.delivered


def test_a_message_that_comes_again_changes_nothing(store: Store, queries: QueryHandlers, engine: Engine) -> None:
    keep(store, said(1))
    keep(store, said(1, content="another"), said(2))
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(schema.messages)) == 2
    _, page = asked(queries, MessagesQuery())
    assert [view["content"] for view in page["messages"]] == ["message 2", "message 1"]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_answer_stands_behind_its_question_whichever_came_first(
    store: Store, queries: QueryHandlers, at_once: bool
) -> None:
    question, answer = (
        said(1, conversation_id="m1"),
        said(2, "llm.ada", "user.ana", in_reply_to="m1", metadata={"a": 1}),
    )
    keep(store, said(0), *([] if at_once else [answer]))
    came = {message.id: (message, NOW) for message in ([answer, question] if at_once else [question])}
    commit(store, StateChanges(messages=came, overtaken={"m1": ["m2", "unknown"]}))
    keep(store, said(3))
    assert ids(queries) == ["m3", "m2", "m1", "m0"]
    _, page = asked(queries, MessagesQuery(in_reply_to="m1"))
    assert MessagePage.model_validate(page).messages[0].model_dump(exclude={"delivered"}) == answer.model_dump()


def test_a_chain_of_answers_stands_in_its_order_however_it_came(store: Store, queries: QueryHandlers) -> None:
    chain = [said(n, in_reply_to=f"m{n - 1}" if n else None, conversation_id="talk") for n in range(4)]
    answers = {f"m{n}": [f"m{n + 1}"] for n in range(3)}
    other = said(9, conversation_id="another")
    for batches in ([3, 2, 1, 0],), ([3], [2], [1], [0]), ([2, 1, 3], [0]), ([1], [3, 0], [2]):
        came: set[str] = set()
        for batch in batches:
            messages = {f"m{n}": (chain[n], NOW) for n in batch}
            came |= messages.keys()
            overtaken = {id_: [it for it in answers.get(id_, ()) if it in came] for id_ in messages}
            commit(
                store,
                StateChanges(messages=messages, overtaken={id_: early for id_, early in overtaken.items() if early}),
            )
            keep(store, other)
        assert ids(queries, conversation_id="talk") == ["m3", "m2", "m1", "m0"], batches
        with store.engine.begin() as connection:
            connection.execute(delete(schema.messages))


def test_an_answer_that_stands_behind_its_question_stays_there(store: Store, queries: QueryHandlers) -> None:
    keep(store, said(1), said(2, in_reply_to="m1"), said(3))
    commit(store, StateChanges(messages={"m1": (said(1), NOW)}, overtaken={"m1": ["m2"]}))
    assert ids(queries) == ["m3", "m2", "m1"]


def test_a_message_that_was_not_delivered_is_marked_so(store: Store, queries: QueryHandlers) -> None:
    keep(store, said(1), said(2), undelivered=("m1",))
    _, page = asked(queries, MessagesQuery())
    assert [(view["id"], view["delivered"]) for view in page["messages"]] == [("m2", True), ("m1", False)]


def test_messages_are_found_by_conversation_participant_text_and_question(store: Store, queries: QueryHandlers) -> None:
    keep(
        store,
        said(1, content="What does RAFT do?"),
        said(2, "llm.ada", "user.ana", conversation_id="m1", in_reply_to="m1", content="It agrees: 100%_sure"),
        said(3, "user.bo", "llm.ada"),
        said(4, "user.bo", "group.readers"),
    )
    assert ids(queries) == ["m4", "m3", "m2", "m1"]
    assert ids(queries, conversation_id="m1") == ["m2", "m1"]
    assert ids(queries, participant="llm.ada") == ["m3", "m2", "m1"]
    assert ids(queries, participant="user.bo") == ["m4", "m3"]
    assert ids(queries, participant="group.readers") == ["m4"]
    assert ids(queries, in_reply_to="m1") == ["m2"]
    assert ids(queries, text="raft") == ["m1"]
    assert ids(queries, text="100%_") == ["m2"]
    assert ids(queries, text="1%0") == []
    assert ids(queries, participant="user.ana", text="agrees") == ["m2"]


def test_messages_are_paged_without_gaps_or_repetitions(store: Store, queries: QueryHandlers) -> None:
    keep(store, *(said(number) for number in range(7)))
    seen: list[str] = []
    before = None
    while True:
        _, page = asked(queries, MessagesQuery(limit=3, before=before))
        seen += [view["id"] for view in page["messages"]]
        if (before := page["next"]) is None:
            break
    assert seen == [f"m{number}" for number in reversed(range(7))]


def test_conversations_come_with_their_last_message_and_how_many_they_have(
    store: Store, queries: QueryHandlers
) -> None:
    keep(
        store,
        said(1),
        said(2, "user.bo", "llm.bela"),
        said(3, "llm.ada", "user.ana", conversation_id="m1"),
    )
    _, page = asked(queries, ConversationsQuery())
    found = ConversationPage.model_validate(page).conversations
    assert [(it.id, it.count, it.last.id) for it in found] == [("m1", 2, "m3"), ("m2", 1, "m2")]
    _, page = asked(queries, ConversationsQuery(participant="llm.bela"))
    assert [it["id"] for it in page["conversations"]] == ["m2"]
    _, page = asked(queries, ConversationsQuery(limit=1))
    assert [it["id"] for it in page["conversations"]] == ["m1"]
    _, page = asked(queries, ConversationsQuery(limit=1, before=page["next"]))
    assert ([it["id"] for it in page["conversations"]], page["next"]) == (["m2"], None)


@pytest.mark.parametrize("query", [MessagesQuery(text="a\0"), MessagesQuery(before=2**53), ConversationsQuery()])
def test_an_odd_query_is_answered_all_the_same(queries: QueryHandlers, query: WireModel) -> None:
    assert isinstance(query, MessagesQuery | ConversationsQuery)
    kind, _ = asked(queries, query)
    assert kind == ("query.rejected" if "\0" in (getattr(query, "text", None) or "") else "query.answer")


def test_a_conversation_is_read_off_its_index(store: Store, engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("plans of small tables tell nothing on PostgreSQL")
    query = "SELECT * FROM messages WHERE conversation_id = 'm1' ORDER BY seq DESC LIMIT 50"
    with engine.begin() as connection:
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}"))
    assert "messages_of_conversation" in plan
    assert "TEMP B-TREE" not in plan
