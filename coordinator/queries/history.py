"""Messages and conversations, read from the database."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Select, exists, func, or_, select

from broker.protocol.queries import ConversationsQuery, MessagesQuery
from coordinator.outbound.size_limits import MOST_SHOWN, Page, fitted
from coordinator.storage import schema
from coordinator.storage.rows import Row, message_view

_AT_ONCE = 5  # messages that are in memory

_messages = schema.messages


def messages(connection: Connection, query: MessagesQuery) -> bytes:
    """A MessagePage as JSON."""
    wanted = select(_messages)
    if query.conversation_id is not None:
        wanted = wanted.where(_messages.c.conversation_id == query.conversation_id)
    if query.participant is not None:
        wanted = wanted.where(or_(_messages.c.sender == query.participant, _messages.c.receiver == query.participant))
    if query.in_reply_to is not None:
        wanted = wanted.where(_messages.c.in_reply_to == query.in_reply_to)
    if query.text:
        wanted = wanted.where(_messages.c.content.icontains(query.text, autoescape=True))
    return _page(connection, wanted, query, "messages", message_view)


def conversations(connection: Connection, query: ConversationsQuery) -> bytes:
    """A ConversationPage as JSON. A conversation is found by its last message: none comes after it."""
    others = _messages.alias()
    same = others.c.conversation_id == _messages.c.conversation_id
    wanted = select(_messages, select(func.count()).where(same).scalar_subquery().label("count"))
    wanted = wanted.where(~exists().where(same, others.c.seq > _messages.c.seq))
    if query.participant is not None:
        takes_part = or_(others.c.sender == query.participant, others.c.receiver == query.participant)
        wanted = wanted.where(exists().where(same, takes_part))
    return _page(connection, wanted, query, "conversations", _conversation)


def _conversation(row: Row) -> dict[str, Any]:
    """A conversation with the beginning of its last message."""
    last = fitted(message_view(row), MOST_SHOWN)
    left_out = last.pop("left_out", None)
    shown = {"id": row["conversation_id"], "count": row["count"], "last": last}
    return shown | ({"left_out": left_out} if left_out else {})


def _page(
    connection: Connection,
    wanted: Select[Any],
    query: MessagesQuery | ConversationsQuery,
    key: str,
    view: Callable[[Row], dict[str, Any]],
) -> bytes:
    """The page, newest first. What is behind its end is not read."""
    if query.before is not None:
        wanted = wanted.where(_messages.c.seq < query.before)
    newest_first = wanted.order_by(_messages.c.seq.desc()).limit(query.limit + 1)
    page, shown, last = Page(key, whole=True), 0, None
    with connection.execution_options(stream_results=True, max_row_buffer=_AT_ONCE).execute(newest_first) as rows:
        for row in rows.mappings():
            if shown == query.limit or not page.take(view(row)):
                return page.told(last)
            shown, last = shown + 1, row["seq"]
    return page.told(None)
