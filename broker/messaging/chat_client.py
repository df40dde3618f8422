"""Send messages for one address, and wait for their answers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from broker.access.roles import is_genuine, speaks_for, was_dead_lettered
from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import (
    AccessRefused,
    BrokerUnreachable,
    DecodeError,
    NoAnswer,
    Problem,
    QueryRejected,
    UnknownAddress,
)
from broker.messaging.rpc import RequestTimeout, RpcClient
from broker.protocol.chat import (
    ADDRESSES,
    COORDINATOR,
    Draft,
    Message,
    MessageProgress,
    is_address,
    made_from,
    owner_of,
)
from broker.protocol.primitives import MAX_BODY_BYTES, decode, problems
from broker.protocol.queries import MessagesQuery
from broker.protocol.topology import MESSAGES, QUERIES, STATUS, Binding, Topology, llm_address, user_address
from broker.protocol.views import Rejection

HISTORY_WITHIN = 5.0
"""Seconds within which the coordinator must answer a query for the history of a conversation."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)  # the earliest time of a message

_PAUSE_SECONDS = 0.05  # until a lost connection has noticed that it is lost

_HISTORY = "history-"  # the prefix of the correlation ids of queries

_log = logging.getLogger(__name__)


class _HistoryMessage(Message):
    """A message of the history. Unknown fields of a newer coordinator are ignored."""

    model_config = ConfigDict(extra="ignore")


class _HistoryPage(BaseModel):
    messages: list[_HistoryMessage]
    next: int | None = None


def read_message(delivery: Delivery, *, limit: int = MAX_BODY_BYTES, require_identity: bool = False) -> Message:
    """Decode the message of a delivery; every reader gets the same message. Raises DecodeError.

    `require_identity`: refuse a message whose sender is not the RabbitMQ user who published it. The id of a message
    without one is its AMQP message_id, else it derives from its body and routing key.
    """
    if unreadable := delivery.properties.problems():
        raise DecodeError(unreadable)
    if require_identity and was_dead_lettered(delivery.headers):
        raise DecodeError([Problem("headers.x-death", "is refused: it is a dead letter of another queue")])
    draft, key = decode(Draft, delivery.body, limit=limit), delivery.routing_key
    user = delivery.properties.user_id
    if require_identity and user != COORDINATOR and not speaks_for(user, draft.sender):
        problem = f"is {draft.sender!r}, but the RabbitMQ user {user!r} published the message"
        raise DecodeError([Problem("sender", problem)])
    if draft.in_reply_to is None and not is_address(key):
        raise DecodeError([Problem("", f"the routing key {key!r} must be an address: {ADDRESSES}")])
    is_own_choice = (
        draft.in_reply_to is not None and not require_identity
    )  # an answer goes to the `reply_to` of its question
    if not is_own_choice and draft.receiver not in (None, owner_of(key) or key):
        raise DecodeError([Problem("receiver", f"is {draft.receiver!r}, but the routing key says {key!r}")])
    message_id = draft.id or delivery.properties.message_id or _made_from_body(delivery)
    filled_in = {
        "id": message_id,
        "receiver": draft.receiver or owner_of(key) or key,
        "conversation_id": draft.conversation_id or draft.in_reply_to or message_id,
        "sent_at": draft.sent_at if draft.sent_at and draft.sent_at >= _FIRST else datetime.now(UTC),
    }
    try:
        return Message(**{**dict(draft), **filled_in})
    except ValidationError as error:
        raise DecodeError(problems(error)) from error


def is_unnamed(delivery: Delivery, message: Message) -> bool:
    """Whether a message came without an id, so that an equal message gets the same id."""
    return not delivery.properties.message_id and message.id == _made_from_body(delivery)


def _made_from_body(delivery: Delivery) -> str:
    return made_from(delivery.routing_key, delivery.body.hex())


def to_publish(
    message: Message, *, to: str | None = None, correlation_id: str | None = None, reply_to: str | None = None
) -> Outgoing:
    """Return a message to publish to its receiver, or to `to`, the `reply_to` of its question.

    `correlation_id` is that of the question; `reply_to` is the address for answers, instead of the sender's mailbox.
    """
    return Outgoing(
        MESSAGES,
        to or message.receiver,
        message.encode(),
        message_id=message.id,
        correlation_id=correlation_id,
        reply_to=reply_to,
    )


class ChatClient:
    """Publishes messages, and waits for answers to `session`: a queue and the address bound to it.

    The consumer of the queue must pass each delivery to `take`.
    """

    def __init__(self, connection: RobustConnection, session: str, *, require_identity: bool = False) -> None:
        self._connection = connection
        self._require_identity = require_identity
        self._session = session
        self._known: set[str] = set()  # addresses that have a mailbox
        self._listening: set[str] = set()  # the LLMs whose progress is bound to the session
        self._rpc = RpcClient(connection, session, prefix=_HISTORY)
        self._history_refused: AccessRefused | None = None
        self._waiting: dict[str, tuple[asyncio.Future[Message], Callable[[str], None]]] = {}  # by id of the question

    @property
    def waiting(self) -> dict[str, asyncio.Future[Message]]:
        """The awaited answers, by the ids of their questions."""
        return {question: answer for question, (answer, _) in self._waiting.items()}

    async def send(self, message: Message) -> None:
        """Send a message; it is in the mailbox when this method returns.

        Raises UnknownAddress for an LLM or a person without a mailbox, PublishRefused, MessageTooLarge and
        ConnectionClosed.
        """
        await self._must_have_a_mailbox(message.receiver)
        await self._connection.publish(to_publish(message))

    async def ask(
        self, message: Message, timeout: float | None, on_text: Callable[[str], None] | None = None
    ) -> Message:
        """Send a message and wait for its answer, at most `timeout` seconds; None: without a limit.

        `on_text` is called with each piece of the answer, as an LLM writes it. Raises TimeoutError and the errors of
        `send`. A later answer goes to the sender's mailbox.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[message.id] = answer, on_text or _ignore
        try:
            async with asyncio.timeout(timeout):
                await self._must_have_a_mailbox(message.receiver)
                if on_text is not None:
                    await self._listen_to(message.receiver)
                await self._connection.publish(to_publish(message, correlation_id=message.id, reply_to=self._session))
                return await answer
        except TimeoutError as error:
            why = f": {self._connection.obstacle}" if self._connection.obstacle else ""
            raise TimeoutError(f"{message.receiver} has not answered within {timeout:g} s{why}") from error
        finally:
            del self._waiting[message.id]

    async def history(self, conversation_id: str, most: int) -> Sequence[Message]:
        """Return the newest messages of a conversation, oldest first, from the coordinator's history.

        Raises NoAnswer when the coordinator does not answer within HISTORY_WITHIN, AccessRefused for a user without
        permission, DecodeError for an invalid answer.
        """
        if self._history_refused is not None:
            raise self._history_refused
        found: list[Message] = []
        before: int | None = None
        while len(found) < most:
            query = MessagesQuery(conversation_id=conversation_id, limit=most - len(found), before=before)
            page = await self._ask(query)
            found += page.messages
            if (before := page.next) is None:
                break
        return found[::-1]

    async def _ask(self, query: MessagesQuery) -> "_HistoryPage":
        request = self._rpc.request(
            QUERIES, query.routing_key, query.encode(), expiration=HISTORY_WITHIN, persistent=False
        )
        try:
            body = await self._rpc.call(request, timeout_seconds=HISTORY_WITHIN)
        except RequestTimeout as error:
            raise NoAnswer(
                self._connection.obstacle or f"no coordinator answered within {HISTORY_WITHIN:g} s"
            ) from error
        except AccessRefused as error:
            self._history_refused = error
            raise
        except QueryRejected as error:
            raise DecodeError(error.problems) from error
        return decode(_HistoryPage, body, limit=len(body))

    def take(self, delivery: Delivery) -> bool:
        """Handle a delivery to the session. Returns whether the delivery is about messages."""
        properties = delivery.properties
        if self._rpc.take(delivery):
            return True
        try:
            if delivery.exchange == STATUS:
                if not self._require_identity or is_genuine(delivery):
                    self._on_text(delivery)
            elif properties.type == "message.rejected":
                self._on_rejection(decode(Rejection, delivery.body, limit=len(delivery.body)))
            elif properties.type is None:
                message = read_message(delivery, limit=len(delivery.body), require_identity=self._require_identity)
                self._on_answer(message)
            else:
                return False
        except DecodeError as error:
            _log.warning("ignored an invalid message: %s", error)
        return True

    def _on_text(self, delivery: Delivery) -> None:
        if b'"message_id"' in delivery.body:  # else it is about a task
            progress = decode(MessageProgress, delivery.body, limit=len(delivery.body))
            if progress.message_id in self._waiting:
                try:
                    self._waiting[progress.message_id][1](progress.text)
                except Exception:  # of any class: the answer itself still arrives
                    _log.exception("the callback for the text of an answer failed")

    def _on_rejection(self, rejection: Rejection) -> None:
        if answer := self.waiting.get(rejection.id or ""):
            errors = "; ".join(str(Problem(wrong.path, wrong.message)) for wrong in rejection.errors)
            if not answer.done():
                answer.set_exception(UnknownAddress(errors))

    def _on_answer(self, message: Message) -> None:
        answer = self.waiting.get(message.in_reply_to or "")
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _must_have_a_mailbox(self, address: str) -> None:
        if address in self._known or not address.startswith(("llm.", "user.")):
            return
        if await self._depth(address) is None:
            raise UnknownAddress(f"nobody has the address {address}", await self._namesake(address))
        self._known.add(address)

    async def _namesake(self, address: str) -> str | None:
        """Return the address of the person with an LLM's name, or of the LLM with a person's name; None without one."""
        kind, _, name = address.partition(".")
        other = user_address(name) if kind == "llm" else llm_address(name)
        return None if await self._depth(other) is None else other

    async def _depth(self, address: str) -> int | None:
        """Return the number of messages in a mailbox; None without a mailbox. Waits until RabbitMQ is connected."""
        while True:
            await self._connection.until_connected()
            with suppress(BrokerUnreachable):  # the connection was just lost
                return await self._connection.depth(address)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen_to(self, address: str) -> None:
        """Bind the progress of an LLM to the session."""
        kind, _, name = address.partition(".")
        if kind == "llm" and name not in self._listening:
            await self._connection.declare(Topology(bindings=(Binding(STATUS, f"{name}.progress", self._session),)))
            self._listening.add(name)


def _ignore(text: str) -> None:
    """Ignore pieces of an answer."""
