"""Messages between LLMs and people: their models, ids, addresses and order.

An address is `llm.<name>` or `user.<name>`, whose mailbox is the queue of that name; `group.<name>`, which names the
mailboxes that are bound to it; or `all`.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Protocol, TypeVar
from uuid import UUID, uuid5

from pydantic import AfterValidator, Field

from broker.bounded_set import BoundedDict
from broker.ids import uuid7
from broker.protocol.primitives import JsonObject, Moment, Name, TaskId, Text, WireModel, matching
from broker.protocol.topology import EVERYBODY

ADDRESSES = "llm.<name>, user.<name>, group.<name> or all"
COORDINATOR = "coordinator"  # the sender of messages about undelivered messages

_NAME = r"[a-z0-9][a-z0-9-]{0,62}"
_ADDRESS = rf"^(?:(?:llm|user|group)\.{_NAME}|{EVERYBODY})$"
_SENDER = rf"^(?:(?:llm|user)\.{_NAME}|{COORDINATOR})$"
_SESSION = re.compile(rf"((llm|user)\.{_NAME})\.{_NAME}")
_IDS = UUID("6e3f8a52-8f5c-5c0e-9b53-3f5d6a1c7b40")  # the namespace of ids that derive from other ids

Address = Annotated[str, matching(_ADDRESS, f"must be an address: {ADDRESSES}")]
SenderAddress = Annotated[str, matching(_SENDER, "must be an address: llm.<name> or user.<name>")]


def _not_blank(content: str) -> str:
    if not content.strip():
        raise ValueError("is empty")
    return content


class Draft(WireModel):
    """A message as a client publishes it to `fluffle.messages`; `chat_client.read_message` adds missing fields."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"sent_at"})

    id: TaskId | None = None
    sender: SenderAddress
    receiver: Address | None = None
    content: Annotated[Text, AfterValidator(_not_blank)]
    metadata: JsonObject = Field(default_factory=dict)
    conversation_id: TaskId | None = None
    in_reply_to: TaskId | None = None
    sent_at: Moment | None = None


class Message(Draft):
    """A complete message. `conversation_id` is the ID of the first message of the conversation."""

    id: TaskId
    receiver: Address
    content: Text  # may be blank: earlier versions stored blank messages
    conversation_id: TaskId
    sent_at: Moment

    @property
    def is_answer(self) -> bool:
        """Whether the message answers another one. An answer goes to the `reply_to` of its question."""
        return self.in_reply_to is not None


class MessageProgress(WireModel):
    """Routing key `<name>.progress`, like Progress: a piece of the answer to a message."""

    ignores_unknown: ClassVar[bool] = True

    message_id: TaskId
    conversation_id: TaskId
    instance: Name
    text: str


def new_message(
    sender: str,
    receiver: str,
    content: str,
    *,
    id: str | None = None,  # noqa: A002 - the name of the field
    conversation_id: str | None = None,
    in_reply_to: str | None = None,
    metadata: JsonObject | None = None,
) -> Message:
    """Create a message, in a new conversation if none is given. Raises pydantic's ValidationError."""
    message_id = id or uuid7()
    draft = Draft(
        id=message_id,
        sender=sender,
        receiver=receiver,
        content=content,
        metadata=metadata or {},
        conversation_id=conversation_id or in_reply_to or message_id,
        in_reply_to=in_reply_to,
        sent_at=datetime.now(UTC),
    )
    return Message(**dict(draft))


def made_from(*parts: str) -> str:
    """Return an id that derives from texts: the same texts give the same id."""
    return str(uuid5(_IDS, "\n".join(parts)))


def numbered(message_id: str, number: int) -> str:
    """Return the id of the `number`th message with the same text, where `message_id` derives from the text."""
    return message_id if number == 1 else f"{message_id}.{number}"


def owner_of(session: str) -> str | None:
    """Return the address of a session's owner: `user.ana` for `user.ana.<session>`. None for other names."""
    found = _SESSION.fullmatch(session)
    return found[1] if found else None


def is_address(text: str) -> bool:
    """Whether a text is an address of messages."""
    return re.fullmatch(_ADDRESS, text) is not None


class _Identified(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def in_reply_to(self) -> str | None: ...


MessageT = TypeVar("MessageT", bound=_Identified)


def in_order(messages: Sequence[MessageT]) -> list[MessageT]:
    """Return messages in an order in which each answer follows its question, if the question is among them."""
    ids = {message.id for message in messages}
    placed: dict[str, MessageT] = {}
    early: dict[str, list[MessageT]] = {}  # answers, by the id of a question that has no place yet
    for message in messages:
        question = message.in_reply_to
        if question in ids and question not in placed:
            early.setdefault(question, []).append(message)
            continue
        following = [message]
        while following:
            placed[following[0].id] = following[0]
            following += early.pop(following.pop(0).id, [])
    answer_each_other = [message for answers in early.values() for message in answers]
    return [*placed.values(), *answer_each_other]


class RepeatedTexts:
    """Numbers messages that have no id and the same text."""

    def __init__(self, *, limit: int = 10_000) -> None:
        self._counts: BoundedDict[str, int] = BoundedDict(limit)

    def next(self, message_id: str) -> str:
        """Return the id of the next message whose text makes `message_id`."""
        count = self._counts[message_id] = self._counts.pop(message_id, 0) + 1
        return numbered(message_id, count)
