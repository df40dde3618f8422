"""What the client does about messages: send them, ask and wait for the answer, take those that have come, look back."""

import asyncio
import getpass
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection
from broker.amqp.url import user_of
from broker.chat_client import ChatClient, is_unnamed, read_message
from broker.errors import (
    ConfigurationError,
    DecodeError,
    MessageRejected,
    MessageTooLarge,
    NoAnswer,
    QueryRejected,
    UnknownAddress,
    did_you_mean,
)
from broker.ids import uuid7
from broker.protocol.chat import Message, MessageProgress, RecentIds, RepeatedTexts, is_address, new_message
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
    user_address,
)
from broker.protocol.views import ConversationPage, ConversationView, MessagePage, MessageView, View
from fluffle.client.conversion import made, read
from fluffle.client.events import PROGRESS, Arrivals, Gap, subscription
from fluffle.client.mailbox import arriving, waiting
from fluffle.client.paging import every_llm
from fluffle.client.requests import RequestClient

_PAGE = 1000

_log = logging.getLogger(__name__)


def own_name() -> str:
    """The name under which a person sends and gets messages here: FLUFFLE_USER, else the login name in legal letters.

    Raises ConfigurationError when there is neither.
    """
    from broker.settings import load_settings

    if (name := load_settings().user) is not None:
        return name
    try:
        login = getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise ConfigurationError("nobody says who you are: set FLUFFLE_USER") from error
    legal = re.sub(r"[^a-z0-9]+", "-", login.lower()).strip("-")[:63]
    if not legal:
        raise ConfigurationError(f"the login name {login!r} makes no name of a-z, 0-9 and -: set FLUFFLE_USER")
    return legal


def address_of(text: str) -> str:
    """An address as people write it: `ada` is short for `llm.ada`. Raises UnknownAddress when it is none."""
    for address in (text, llm_address(text)):
        if is_address(address):
            return address
    raise UnknownAddress(f"{text!r} is no address: write ada or llm.ada for an LLM, user.ana, group.reviewers, or all")


class ChatEvent(View):
    """That a message was sent: a CloudEvent 1.0 of the type `fluffle.message.sent`."""

    id: str
    time: datetime
    data: MessageView


class Messaging:
    """The part of the client that is about messages."""

    _url: str | None
    _name: str
    _answer_timeout: float
    _request_client: RequestClient
    _user: str | None
    _mailing: asyncio.Task[ChatClient] | None = None
    _taken: RecentIds  # what was shown and taken from the mailbox
    _repeats: RepeatedTexts

    @property
    def address(self) -> str:
        """Who sends and gets the messages of this client: `user.<name>`. Raises ConfigurationError when nobody says."""
        self._user = self._user or _identified(self._broker) or own_name()
        return user_address(self._user)

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

        It is in the mailbox when this returns. Without a conversation it begins one. Raises UnknownAddress for an LLM
        or a person that nobody has heard of, MessageRejected, PublishRefused, MessageTooLarge, and NoAnswer when
        RabbitMQ has not confirmed it in time. Of a group without members a message in the own mailbox tells.
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
        """Send a message and wait for its answer, at most `timeout` seconds; None waits for ever.

        `on_text` is called with the text of the answer piece by piece, as an LLM writes it. An LLM that cannot answer
        says why, with `error` in the metadata of its answer. Raises TimeoutError: the answer will be in the inbox then;
        and what `send` raises.
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
        """The messages that have come for this person, and those that come, each shown once.

        A message is taken from the mailbox when the next one is asked for. Without `wait` it ends when the mailbox is
        empty; with `keep` also nothing is taken. Joining is `join`, leaving is `leave`. A message that RabbitMQ cannot
        deliver is put among the rejected. Without `wait`, raises BrokerError when the connection is lost.
        """
        address, limit, require_identity = self.address, _largest(), is_identity_required()
        name, seen = f"{self._name} (inbox)", RecentIds()
        there = arriving(self._broker, address, name=name)
        if not wait:
            there = waiting(self._broker, address, name=name, keep=keep)
        async with aclosing(there):
            async for delivery in there:
                message = _readable(delivery, limit, require_identity=require_identity)
                if message is not None and is_unnamed(delivery, message):
                    if delivery.is_lost:
                        continue  # it comes again
                    message = message.model_copy(update={"id": self._repeats.next(message.id)})
                if (
                    message is None
                    or message.sender == address
                    or message.id in self._taken
                    or not seen.add(message.id)
                ):
                    delivery.ack()
                    continue
                yield message
                if wait or not keep:
                    self._taken.add(message.id)
                    delivery.ack()

    async def join(self, group: str) -> None:
        """Get the messages of a group from now on. Raises AccessRefused, and QueryRejected for what is no name."""
        binding = membership(self.address, _name_of(group))
        await self._request_client.link.declare(Topology(queues=mailbox(self.address).queues, bindings=(binding,)))

    async def leave(self, group: str) -> None:
        """Get the messages of a group no longer. Raises AccessRefused, and QueryRejected for what is no name."""
        async with RobustConnection(self._broker, name=f"{self._name} (leave)") as link:
            await link.unbind(membership(self.address, _name_of(group)))

    async def messages(
        self,
        *,
        conversation_id: str | None = None,
        participant: str | None = None,
        in_reply_to: str | None = None,
        text: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[MessageView]:
        """Messages of the history that fit every filter, newest first; page by page, as you iterate.

        `participant` is an address that sent or got them; `text` is in the content; `limit`: at most so many. Raises
        QueryRejected and NoAnswer.
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
                limit=_PAGE if left is None else min(left, _PAGE),
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
        """Conversations with their last messages, that with the newest first; page by page, as you iterate.

        `participant` is an address that takes part. Raises QueryRejected and NoAnswer.
        """
        left, before = limit, None
        while left is None or left > 0:
            most = _PAGE if left is None else min(left, _PAGE)
            query = made(ConversationsQuery, QueryRejected, participant=participant, limit=most, before=before)
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
        """What is said from now on, by whomever, without taking it from anybody's mailbox.

            async with client.listen(participant="llm.ada") as said:
                async for message in said: ...

        `participant` is an address that sends or gets it. With `progress`, it is also the text that LLMs write, as it
        comes, of all answers. What was said while RabbitMQ was away is looked up in the history.
        """
        sources = [Binding(EVENTS, "message.#", ""), *([PROGRESS] if progress else [])]
        name, identity = f"{self._name} (listen)", is_identity_required()
        async with subscription(self._broker, name, sources, require_identity=identity) as arrivals:
            yield self._said(arrivals, participant)

    async def _said(self, arrivals: Arrivals, participant: str | None) -> AsyncIterator[MessageView | MessageProgress]:
        begun, seen = datetime.now(UTC), RecentIds()
        while True:
            arrival = await arrivals.get()
            if isinstance(arrival, Gap):
                newest = [view async for view in self.messages(participant=participant, limit=_PAGE)]
                told: list[MessageView | MessageProgress] = [it for it in reversed(newest) if it.sent_at >= begun]
            else:
                arrival.ack()
                told = _told(arrival)
            for it in told:
                if isinstance(it, MessageView):
                    concerned = participant in (None, it.sender, it.receiver)
                    if not concerned or not seen.add(it.id):
                        continue
                yield it

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def _broker(self) -> str:
        assert self._url is not None, "a client is used inside `async with`"
        return self._url

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
        if (size := len(message.encode())) > (limit := _largest()):  # it would come, and be missing in the history
            raise MessageTooLarge(f"the message has {size:,} bytes; the limit is {limit:,}")
        return message

    async def _chat_client(self) -> ChatClient:
        """What sends the messages, with a queue for the answers; made with the first of them."""
        if self._mailing is None or (self._mailing.done() and self._mailing.exception() is not None):
            self._mailing = asyncio.create_task(self._open_mail())
        return await asyncio.shield(self._mailing)

    async def _open_mail(self) -> ChatClient:
        link, session = self._request_client.link, f"{self.address}.{uuid7()}"
        chat_client = ChatClient(link, session, require_identity=is_identity_required())
        await link.declare(mailbox(self.address))
        answers = Queue(session, exclusive=True)
        await link.declare(Topology(queues=(answers,), bindings=(Binding(MAILBOXES, session, session),)))
        await link.consume(session, chat_client.take, auto_ack=True)
        return chat_client

    async def _with_advice(self, error: UnknownAddress, address: str) -> UnknownAddress:
        """The error, with what may have been meant."""
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
            return UnknownAddress(f"{error}: a person gets it with the first `fluffle message inbox`")
        return UnknownAddress(f"{error}; `fluffle llm list` shows who is there")


def is_identity_required() -> bool:
    """Whether messages count only from the user of RabbitMQ that they say they are from."""
    from broker.settings import load_settings

    return load_settings().require_identity


def _largest() -> int:
    """The bytes of a message that the coordinator takes."""
    from broker.settings import load_settings

    return load_settings().max_body


def _identified(url: str) -> str | None:
    """The name of the AMQP URL's user, where that is the one that counts."""
    return user_of(url) if is_identity_required() else None


def _name_of(group: str) -> str:
    name = group.removeprefix("group.")
    if not is_address(group_address(name)):
        raise UnknownAddress(f"{group!r} is no name of a group: it is made of a-z, 0-9 and -, at most 63 of them")
    return name


def _readable(delivery: Delivery, limit: int, *, require_identity: bool) -> Message | None:
    try:
        return read_message(delivery, limit=limit, require_identity=require_identity)
    except DecodeError as error:
        _log.warning("dropped a message that cannot be read: %s", error)
        return None


def _told(arrival: Delivery) -> list[MessageView | MessageProgress]:
    """What a delivery tells about messages; nothing when it is about a task."""
    try:
        if arrival.exchange == EVENTS:
            return [decode(ChatEvent, arrival.body, limit=len(arrival.body)).data]
        if b'"message_id"' in arrival.body:
            return [decode(MessageProgress, arrival.body, limit=len(arrival.body))]
    except DecodeError as error:
        _log.warning("ignored a message of %s that cannot be read: %s", arrival.exchange, error)
    return []
