"""The part of the client for messages: send, ask and wait for the answer, read the inbox, look back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection
from broker.bounded_set import BoundedSet
from broker.errors import (
    DecodeError,
    MessageRejected,
    MessageTooLarge,
    NoAnswer,
    QueryRejected,
    UnknownAddress,
    did_you_mean,
)
from broker.ids import uuid7
from broker.messaging.chat_client import ChatClient
from broker.protocol.chat import Message, MessageProgress, is_address, new_message
from broker.protocol.primitives import JsonObject, decode, problems
from broker.protocol.queries import ConversationsQuery, MessagesQuery
from broker.protocol.topology import (
    EVENTS,
    MAILBOXES,
    MESSAGES,
    Binding,
    Queue,
    Topology,
    group_address,
    llm_address,
    mailbox,
    membership,
)
from broker.protocol.views import ConversationPage, ConversationView, MessagePage, MessageView, View
from fluffle.client.connection import ConnectedClient
from fluffle.client.events import PROGRESS, Arrivals, Gap, subscription
from fluffle.client.mailbox import Inbox
from fluffle.client.requests import every_llm, made, read

_PAGE_SIZE = 1000

_log = logging.getLogger(__name__)


def address_of(text: str) -> str:
    """Return the full form of an address: `ada` is short for `llm.ada`. Raises UnknownAddress for another text."""
    for address in (text, llm_address(text)):
        if is_address(address):
            return address
    raise UnknownAddress(f"{text!r} is no address: write ada or llm.ada for an LLM, user.ana, group.reviewers, or all")


class ChatEvent(View):
    """The event that a message was sent: a CloudEvent 1.0 of the type `fluffle.message.sent`."""

    id: str
    time: datetime
    data: MessageView


class ChatMethods(ConnectedClient):
    """The methods of `Client` for messages."""

    def __init__(self, url: str | None, *, name: str, answer_timeout: float, user: str | None) -> None:
        super().__init__(url, name=name, answer_timeout=answer_timeout, user=user)
        self._inbox = Inbox()
        self._opening_chat: asyncio.Task[ChatClient] | None = None

    async def send(
        self,
        to: str,
        content: str,
        *,
        conversation_id: str | None = None,
        in_reply_to: str | None = None,
        metadata: JsonObject | None = None,
    ) -> Message:
        """Send a message to an LLM (`ada` or `llm.ada`), a person (`user.ana`), a group (`group.x`) or `all`.

        The message is in the mailbox when this method returns. Without a conversation, the message begins one. Raises
        UnknownAddress for an LLM or a person without a mailbox, MessageRejected, PublishRefused, MessageTooLarge, and
        NoAnswer when RabbitMQ has not confirmed the message in time. A message to a group without members raises
        nothing: the coordinator sends a message about it.
        """
        message = self._message(to, content, conversation_id, in_reply_to, metadata)
        chat_client = await self._chat_client()
        try:
            async with asyncio.timeout(self._answer_timeout):
                await chat_client.send(message)
        except TimeoutError as error:
            raise await self._request_client.no_answer(MESSAGES, confirmed=False) from error
        except UnknownAddress as error:
            raise await self._with_advice(error, message.receiver) from error
        return message

    async def ask(
        self,
        to: str,
        content: str,
        timeout: float | None = 60.0,
        *,
        conversation_id: str | None = None,
        metadata: JsonObject | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Message:
        """Send a message and wait for its answer, at most `timeout` seconds; None waits without limit.

        `on_text` receives the text of the answer piece by piece, as an LLM writes it. The answer of an LLM that cannot
        answer has the reason as its content and `error` in its metadata. Raises TimeoutError, after which the answer
        arrives in the inbox, and all errors of `send`.
        """
        message = self._message(to, content, conversation_id, None, metadata)
        chat_client = await self._chat_client()
        try:
            return await chat_client.ask(message, timeout, on_text)
        except UnknownAddress as error:
            raise await self._with_advice(error, message.receiver) from error
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the answer will be in the inbox of {self.address}") from error

    async def inbox(self, *, wait: bool = True, keep: bool = False) -> AsyncIterator[Message]:
        """Yield the messages that wait for this person, then those that arrive, each once.

        A message leaves the mailbox when the next one is requested. Without `wait`, the iteration ends when the
        mailbox is empty; with `keep` also, all messages stay in it. A message that RabbitMQ cannot deliver is moved to
        the rejected messages. Without `wait`, raises BrokerError when the connection is lost.
        """
        messages = self._inbox.messages(
            self._url,
            self.address,
            name=f"{self._name} (inbox)",
            wait=wait,
            keep=keep,
            max_body=self._settings.max_body,
            require_identity=self._settings.require_identity,
        )
        async with aclosing(messages):
            async for message in messages:
                yield message

    async def join(self, group: str) -> None:
        """Receive the messages to a group from now on. Raises AccessRefused, and UnknownAddress for a wrong name."""
        binding = membership(self.address, _group_name(group))
        await self._request_client.link.declare(Topology(queues=mailbox(self.address).queues, bindings=(binding,)))

    async def leave(self, group: str) -> None:
        """Receive the messages to a group no longer. Raises AccessRefused, and UnknownAddress for a wrong name."""
        async with RobustConnection(self._url, name=f"{self._name} (leave)") as link:
            await link.unbind(membership(self.address, _group_name(group)))

    async def messages(
        self,
        *,
        conversation_id: str | None = None,
        participant: str | None = None,
        in_reply_to: str | None = None,
        text: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[MessageView]:
        """Yield the messages of the history that match all filters, newest first. Pages are fetched as needed.

        `participant` is the address of the sender or the receiver, `text` a part of the content, `limit` the most
        messages to yield. Raises QueryRejected and NoAnswer.
        """
        left, before = limit, None
        while left is None or left > 0:
            query = made(
                MessagesQuery,
                QueryRejected,
                conversation_id=conversation_id,
                participant=participant,
                in_reply_to=in_reply_to,
                text=text,
                limit=_PAGE_SIZE if left is None else min(left, _PAGE_SIZE),
                before=before,
            )
            page = read(MessagePage, await self._request_client.ask(query))
            for view in page.messages:
                yield view
            if (before := page.next) is None:
                return
            left = None if left is None else left - len(page.messages)

    async def conversations(
        self, *, participant: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ConversationView]:
        """Yield conversations with their last messages, the most recent first. Pages are fetched as needed.

        `participant` is the address of one that takes part, `limit` the most conversations to yield. Raises
        QueryRejected and NoAnswer.
        """
        left, before = limit, None
        while left is None or left > 0:
            size = _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)
            query = made(ConversationsQuery, QueryRejected, participant=participant, limit=size, before=before)
            page = read(ConversationPage, await self._request_client.ask(query))
            for view in page.conversations:
                yield view
            if (before := page.next) is None:
                return
            left = None if left is None else left - len(page.conversations)

    @asynccontextmanager
    async def listen(
        self, *, participant: str | None = None, progress: bool = False
    ) -> AsyncIterator[AsyncIterator[MessageView | MessageProgress]]:
        """Receive copies of all messages from now on. The messages stay in the mailboxes of their receivers.

            async with client.listen(participant="llm.ada") as messages:
                async for message in messages: ...

        `participant` limits them to messages from and to that address. With `progress`, the text of all answers
        arrives too, as LLMs write it. Messages sent while RabbitMQ was away are read from the history.
        """
        sources = [Binding(EVENTS, "message.#", ""), *([PROGRESS] if progress else [])]
        name, identity = f"{self._name} (listen)", self._settings.require_identity
        async with subscription(self._url, name, sources, require_identity=identity) as arrivals:
            yield self._heard(arrivals, participant)

    async def _heard(self, arrivals: Arrivals, participant: str | None) -> AsyncIterator[MessageView | MessageProgress]:
        begun, seen = datetime.now(UTC), BoundedSet[str]()
        while True:
            arrival = await arrivals.get()
            if isinstance(arrival, Gap):
                newest = [view async for view in self.messages(participant=participant, limit=_PAGE_SIZE)]
                heard: list[MessageView | MessageProgress] = [it for it in reversed(newest) if it.sent_at >= begun]
            else:
                arrival.ack()
                heard = _decoded(arrival)
            for it in heard:
                if isinstance(it, MessageView):
                    concerned = participant in (None, it.sender, it.receiver)
                    if not concerned or not seen.add(it.id):
                        continue
                yield it

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _message(
        self,
        to: str,
        content: str,
        conversation_id: str | None,
        in_reply_to: str | None,
        metadata: JsonObject | None,
    ) -> Message:
        try:
            message = new_message(
                self.address,
                address_of(to),
                content,
                conversation_id=conversation_id,
                in_reply_to=in_reply_to,
                metadata=metadata,
            )
        except ValidationError as error:
            raise MessageRejected(problems(error)) from error
        size, limit = len(message.encode()), self._settings.max_body
        if size > limit:  # it would be delivered, and be missing in the history
            raise MessageTooLarge(f"the message has {size:,} bytes; the limit is {limit:,}")
        return message

    async def _chat_client(self) -> ChatClient:
        """Return the client that sends the messages, with a queue for the answers. The first message creates it."""
        opening = self._opening_chat
        if opening is None or (opening.done() and opening.exception() is not None):
            opening = self._opening_chat = asyncio.create_task(self._open_chat())
        return await asyncio.shield(opening)

    async def _open_chat(self) -> ChatClient:
        link, session = self._request_client.link, f"{self.address}.{uuid7()}"
        chat_client = ChatClient(link, session, require_identity=self._settings.require_identity)
        await link.declare(mailbox(self.address))
        answers = Queue(session, exclusive=True)
        await link.declare(Topology(queues=(answers,), bindings=(Binding(MAILBOXES, session, session),)))
        await link.consume(session, chat_client.take, auto_ack=True)
        return chat_client

    async def _with_advice(self, error: UnknownAddress, address: str) -> UnknownAddress:
        """Return the error with an address that may be meant, or what to do."""
        if error.meant:
            return error
        kind = address.partition(".")[0]
        known = []
        if kind == "llm":
            with suppress(NoAnswer):
                known = [llm_address(llm.name) async for llm in every_llm(self._request_client)]
        if hint := did_you_mean(address, known):
            return UnknownAddress(f"{error}{hint}")
        if kind == "user":
            return UnknownAddress(f"{error}: the first `fluffle message inbox` of a person creates it")
        return UnknownAddress(f"{error}; `fluffle llm list` shows all LLMs")


def _group_name(group: str) -> str:
    name = group.removeprefix("group.")
    if not is_address(group_address(name)):
        raise UnknownAddress(f"{group!r} is not a valid group name: use 1-63 of a-z, 0-9 and '-'")
    return name


def _decoded(arrival: Delivery) -> list[MessageView | MessageProgress]:
    """Return the message, or the text of an answer, in a delivery; nothing when it is about a task."""
    try:
        if arrival.exchange == EVENTS:
            return [decode(ChatEvent, arrival.body, limit=len(arrival.body)).data]
        if b'"message_id"' in arrival.body:
            return [decode(MessageProgress, arrival.body, limit=len(arrival.body))]
    except DecodeError as error:
        _log.warning("ignored a message of %s that cannot be decoded: %s", arrival.exchange, error)
    return []
