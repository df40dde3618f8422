"""Messages and conversations, read from the database."""

from typing import Any

from sqlalchemy import Connection, Select, exists, func, or_, select

from broker.views import ConversationsQuery, MessagesQuery
from coordinator import schema
from coordinator.rows import message_view

_messages = schema.messages


def messages(connection: Connection, query: MessagesQuery) -> dict[str, Any]:
    """A MessagePage as JSON-able data."""
    wanted = select(_messages)
    if query.conversation_id is not None:
        wanted = wanted.where(_messages.c.conversation_id == query.conversation_id)
    if query.participant is not None:
        wanted = wanted.where(or_(_messages.c.sender == query.participant, _messages.c.receiver == query.participant))
    if query.in_reply_to is not None:
        wanted = wanted.where(_messages.c.in_reply_to == query.in_reply_to)
    if query.text:
        wanted = wanted.where(_messages.c.content.icontains(query.text, autoescape=True))
    rows, following = _page(connection, wanted, query)
    return {"messages": [message_view(row) for row in rows], "next": following}


def conversations(connection: Connection, query: ConversationsQuery) -> dict[str, Any]:
    """A ConversationPage as JSON-able data. A conversation is found by its last message: none comes after it."""
    others = _messages.alias()
    same = others.c.conversation_id == _messages.c.conversation_id
    wanted = select(_messages, select(func.count()).where(same).scalar_subquery().label("count"))
    wanted = wanted.where(~exists().where(same, others.c.seq > _messages.c.seq))
    if query.participant is not None:
        takes_part = or_(others.c.sender == query.participant, others.c.receiver == query.participant)
        wanted = wanted.where(exists().where(same, takes_part))
    rows, following = _page(connection, wanted, query)
    found = [{"id": row["conversation_id"], "count": row["count"], "last": message_view(row)} for row in rows]
    return {"conversations": found, "next": following}


def _page(
    connection: Connection, wanted: Select[Any], query: MessagesQuery | ConversationsQuery
) -> tuple[list[Any], int | None]:
    """The rows of the page, newest first, and the `before` of the page that follows."""
    if query.before is not None:
        wanted = wanted.where(_messages.c.seq < query.before)
    newest_first = wanted.order_by(_messages.c.seq.desc()).limit(query.limit + 1)
    rows = connection.execute(newest_first).mappings().all()
    page = list(rows[: query.limit])
    return page, page[-1]["seq"] if len(rows) > query.limit else None
