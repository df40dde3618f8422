"""Answers the messages to an LLM, however long its tasks take.

    message -> the conversation so far -> the LLM is called -> answer, published -> confirmed -> acknowledged

A few conversations run at the same time, without slots; within a conversation, messages are answered in order. The id
of an answer is derived from the id of its question, so a second answer to the same message counts as the first.

A call of an LLM costs money. So a message for which the LLM was called is never returned to RabbitMQ because of an
error of the worker: its sender gets the reason as the answer, and if that cannot be sent either, the log has it.
"""

import asyncio
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.bounded_set import BoundedSet
from broker.errors import (
    BrokerError,
    ConnectionClosed,
    DecodeError,
    MessageTooLarge,
    NoAnswer,
    PublishRefused,
    Unroutable,
)
from broker.messaging.chat_client import ChatClient, is_unnamed, read_message, to_publish
from broker.protocol.chat import (
    COORDINATOR,
    Message,
    RepeatedTexts,
    in_order,
    made_from,
    new_message,
    numbered,
)
from broker.protocol.portable_text import portable, printed
from broker.protocol.topology import llm_address
from workers.execution.progress import ProgressStream
from workers.execution.reporter import RETRY, Reporter
from workers.models.base import Answer, Job, ModelError
from workers.models.protocols import LLM

MAX_CONVERSATIONS = 4
"""Conversations in which an instance answers at the same time."""

PREFETCH = 2 * MAX_CONVERSATIONS
"""Unacknowledged messages of the mailbox."""

ANSWER_TIMEOUT_SECONDS = 200.0
"""An answer may take this time. Even with all of PREFETCH in one conversation, no message is then unacknowledged for
30 minutes, after which RabbitMQ closes a channel."""

MAX_HISTORY_MESSAGES = 50
"""Messages of a conversation that an LLM gets with the newest one."""

_MAX_RECENT = 200  # messages sent and received here, which the history may not have yet

_log = logging.getLogger(__name__)


class ChatResponder:
    """Answers the messages to an LLM. `on_change` is called when no message is left to answer."""

    def __init__(
        self,
        llm: LLM,
        link: RobustConnection,
        chat_client: ChatClient,
        reporter: Reporter,
        *,
        name: str,
        instructions: str | None,
        timeout: float | None,
        max_body: int,
        require_identity: bool,
        on_change: Callable[[], None],
    ) -> None:
        self._llm = llm
        self._link = link
        self._chat_client = chat_client
        self._reporter = reporter
        self._address = llm_address(name)
        self._instructions = instructions
        self._timeout = min(timeout or ANSWER_TIMEOUT_SECONDS, ANSWER_TIMEOUT_SECONDS)
        self._max_body = max_body
        self._require_identity = require_identity
        self._on_change = on_change
        self._closed = False
        self._open: dict[str, deque[Message]] = {}  # conversations with their unanswered messages, oldest first
        self._running: dict[str, asyncio.Task[None]] = {}  # conversations in which the LLM is called
        self._deliveries: dict[str, list[Delivery]] = {}  # of the messages in `_open`, by id
        self._settled = BoundedSet[str]()
        self._repeats = RepeatedTexts()
        self._unnamed: dict[str, str] = {}  # ids of messages that arrived without one -> the id made from their body
        self._recent: deque[Message] = deque(maxlen=_MAX_RECENT)

    @property
    def idle(self) -> bool:
        """Whether no message is being answered."""
        return not self._running

    def take(self, delivery: Delivery) -> None:
        """Take a message. A message that cannot be decoded is dropped: the coordinator informs its sender."""
        try:
            message = read_message(delivery, limit=self._max_body, require_identity=self._require_identity)
        except DecodeError as error:
            _log.warning("dropped a message that cannot be decoded: %s", error)
            delivery.ack()
            return
        if is_unnamed(delivery, message):
            message = self._with_id(message, delivery)
        if message.id in self._settled:
            delivery.ack()
        elif message.id in self._deliveries:
            self._deliveries[message.id].append(delivery)
        elif self._closed:
            delivery.requeue()
        elif self._is_to_be_answered(message):
            self._deliveries[message.id] = [delivery]
            self._open.setdefault(message.conversation_id, deque()).append(message)
            self._go_on()
        else:
            self._recent.append(message)
            self._settled.add(message.id)
            delivery.ack()

    def _with_id(self, message: Message, delivery: Delivery) -> Message:
        """Give a message without an id a new one: a second message with the same text is another message.

        A redelivery, after its channel was lost, gets the id of the first delivery.
        """
        made = message.id
        pending = (its_id for its_id in self._deliveries if self._unnamed.get(its_id) == made)
        lost = (its_id for its_id in pending if all(it.is_lost for it in self._deliveries[its_id]))
        known = next(lost, None) if delivery.redelivered else None
        its_id = known or self._repeats.next(made)
        self._unnamed[its_id] = made
        return message.model_copy(update={"id": its_id})

    def close(self) -> None:
        """Answer no more messages: waiting and arriving messages are returned to RabbitMQ."""
        self._closed = True
        for conversation, messages in list(self._open.items()):
            kept = 1 if conversation in self._running else 0
            while len(messages) > kept:
                for delivery in self._deliveries.pop(messages.pop().id):
                    delivery.requeue()
            if not messages:
                del self._open[conversation]

    async def abandon(self) -> None:
        """Cancel the calls, without an answer: RabbitMQ keeps the messages for the next instance."""
        for answering in self._running.values():
            answering.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _is_to_be_answered(self, message: Message) -> bool:
        """Return whether the message is for this LLM alone, and no answer of another LLM: those would never end."""
        mine = message.receiver == self._address and message.sender not in (self._address, COORDINATOR)
        return mine and (not message.is_answer or message.sender.startswith("user."))

    # -- answering -------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        waiting = [conversation for conversation in self._open if conversation not in self._running]
        for conversation in waiting[: MAX_CONVERSATIONS - len(self._running)]:
            answering = asyncio.create_task(self._converse(self._open[conversation]))
            self._running[conversation] = answering
            answering.add_done_callback(partial(self._on_end, conversation))

    def _on_end(self, conversation: str, answering: asyncio.Task[None]) -> None:
        del self._running[conversation]
        if answering.cancelled():
            return
        if error := answering.exception():  # a bug; the call may have cost money, so it is not repeated
            _log.error("a message cannot be answered and is dropped", exc_info=error)
            for place, message in enumerate(self._open.pop(conversation, ())):
                self._settle(message, done=place == 0)
        elif not self._open.get(conversation):  # else a message arrived since the last answer
            self._open.pop(conversation, None)
        self._go_on()
        if self.idle:
            self._on_change()

    async def _converse(self, messages: deque[Message]) -> None:
        while messages:
            question = messages[0]
            is_settled = await self._answer(question)
            messages.popleft()
            if is_settled:
                self._settle(question, done=True)
            else:
                del self._deliveries[question.id]
                self._unnamed.pop(question.id, None)

    def _settle(self, message: Message, *, done: bool) -> None:
        """Acknowledge a message that is answered, or never will be; without `done`, return it for another instance."""
        deliveries = self._deliveries.pop(message.id, ())
        self._unnamed.pop(message.id, None)
        if done:
            self._settled.add(message.id)
        for delivery in deliveries:
            delivery.ack() if done else delivery.requeue()

    async def _answer(self, question: Message) -> bool:
        """Answer a message. Returns False when the connection closes first, else True."""
        delivery = self._deliveries[question.id][0]
        try:
            question, said = await self._prepare(question, delivery)
        except Exception as error:
            _log.exception("a message could not be answered", extra=_names(question))
            said = _apology("worker_error", f"the worker failed with {type(error).__name__}; its log has more")
        if said is None:
            _log.info("a repeated message is already answered", extra=_names(question))
            return True
        try:
            answer = await self._reply(question, delivery, *said)
        except ConnectionClosed:
            return False
        except (BrokerError, ValueError):
            _log.exception("an answer cannot be sent", extra=_names(question))
            return True
        self._recent += (question, answer)
        _log.info("message answered", extra=_names(question))
        return True

    async def _prepare(
        self, question: Message, delivery: Delivery
    ) -> tuple[Message, tuple[str, dict[str, Any]] | None]:
        """Return the message with its id of the history, and the content and metadata of the answer of the LLM.

        The answer is None when the message is already answered.
        """
        made = self._unnamed.get(question.id)
        found = await self._history(question, needed=delivery.redelivered or made is not None)
        if made is not None:
            named = self._as_in_history(question, made, found, came_again=delivery.redelivered)
            if named is None:
                return question, None
            question = named
        so_far = self._so_far(question, found)
        answered = made_from(question.id, self._address)
        if any(it.id == answered for it in so_far):
            return question, None
        return question, await self._called(question, so_far)

    async def _reply(self, question: Message, delivery: Delivery, content: str, metadata: dict[str, Any]) -> Message:
        """Send an answer, or the reason why it cannot be sent. Raises BrokerError or ValueError when neither can."""
        try:
            return await self._sent(question, delivery, content, metadata)
        except ConnectionClosed:
            raise
        except (BrokerError, ValueError) as error:
            kind = "answer_too_large" if isinstance(error, MessageTooLarge) else "worker_error"
            return await self._sent(question, delivery, *_apology(kind, f"my answer cannot be sent: {error}"))

    async def _sent(self, question: Message, delivery: Delivery, content: str, metadata: dict[str, Any]) -> Message:
        properties = delivery.properties
        answer = self._made(question, content, metadata)
        await self._publish(to_publish(answer, to=properties.reply_to, correlation_id=properties.correlation_id))
        return answer

    def _made(self, question: Message, content: str, metadata: dict[str, Any]) -> Message:
        return new_message(
            self._address,
            question.sender,
            content,
            id=made_from(question.id, self._address),
            conversation_id=question.conversation_id,
            in_reply_to=question.id,
            metadata=metadata,
        )

    async def _called(self, question: Message, so_far: tuple[Message, ...]) -> tuple[str, dict[str, Any]]:
        """Call the LLM, and return the content and the metadata of its answer, or of the reason for none."""
        job = Job(
            task_id=question.id,
            attempt=1,
            description=question.content,
            instructions=self._instructions,
            timeout=self._timeout,
            metadata=question.metadata,
            message=question,
            conversation=so_far,
        )
        stream = ProgressStream(partial(self._reporter.message_progress, question))
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._llm.run(job, stream.add)
            return _content(answer)
        except ModelError as error:
            return _apology(error.type, error.message)
        except TimeoutError:
            return _apology("timeout", f"no answer within {self._timeout:g} s")
        except asyncio.CancelledError:
            if (answering := asyncio.current_task()) is None or answering.cancelling():
                raise
            return _apology("cancelled", "the call was cancelled from within")
        except Exception as error:
            _log.exception("the LLM raised an unexpected error", extra=_names(question))
            return _apology(type(error).__name__, printed(error) or type(error).__name__)
        finally:
            stream.close()

    def _as_in_history(
        self, question: Message, made: str, found: Sequence[Message], *, came_again: bool
    ) -> Message | None:
        """Return a question without an id, with the id of the first unanswered question of the same text.

        None when a redelivered question has been answered: the history has no such question.
        """
        answered = {known.in_reply_to for known in (*found, *self._recent) if known.sender == self._address}
        number = next(number for number in itertools.count(1) if numbered(made, number) not in answered)
        its_id = numbered(made, number)
        if came_again and number > 1 and its_id not in {known.id for known in found}:
            return None
        return question.model_copy(update={"id": its_id})

    async def _history(self, message: Message, *, needed: bool) -> Sequence[Message]:
        """Return the newest messages of the conversation, oldest first. The first message has none."""
        if message.conversation_id == message.id and not needed:
            return ()
        try:
            return await self._chat_client.history(message.conversation_id, MAX_HISTORY_MESSAGES)
        except (NoAnswer, BrokerError, DecodeError) as error:
            _log.warning("answering without the history of the conversation: %s", error)
            return ()

    def _so_far(self, message: Message, found: Sequence[Message]) -> tuple[Message, ...]:
        """Return the earlier messages of the conversation that concern this LLM, oldest first.

        They come from the history, and from the recent messages that the history does not have.
        """
        place = next((at for at, known in enumerate(found) if known.id == message.id), len(found))
        before = [known for at, known in enumerate(found) if at < place or known.sender == self._address]
        ids = {known.id for known in found} | {message.id}
        before += [it for it in self._recent if it.conversation_id == message.conversation_id and it.id not in ids]
        concerned = {self._address, message.sender}
        return tuple(it for it in in_order(before) if {it.sender, it.receiver} & concerned or _is_for_many(it))

    async def _publish(self, answer: Outgoing) -> None:
        """Publish until RabbitMQ confirms it. Raises ConnectionClosed, and BrokerError when RabbitMQ never will."""
        pauses = RETRY.pauses()
        while True:
            try:
                await self._link.publish(answer)
                return
            except (PublishRefused, Unroutable) as error:
                _log.warning("RabbitMQ did not take an answer of %s: %s", self._address, error)
                await asyncio.sleep(next(pauses))


def _names(question: Message) -> dict[str, str]:
    """Return the fields that name the message in the log."""
    return {"question": question.id, "conversation": question.conversation_id}


def _is_for_many(message: Message) -> bool:
    return not message.receiver.startswith(("llm.", "user."))


def _content(answer: Answer) -> tuple[str, dict[str, Any]]:
    text = answer.result if isinstance(answer.result, str) else json.dumps(answer.result, ensure_ascii=False, indent=2)
    content = portable(text.replace("\0", ""))
    if not content.strip():
        return _apology("no_answer", "the answer is empty")
    usage = None if answer.usage is None else answer.usage.model_dump(exclude_none=True)
    return content, {"usage": usage} if usage else {}


def _apology(kind: str, message: str) -> tuple[str, dict[str, Any]]:
    """Return the content and the metadata of an answer that gives the reason for none."""
    return portable(f"I cannot answer: {message}".replace("\0", "")), {"error": portable(kind)}
