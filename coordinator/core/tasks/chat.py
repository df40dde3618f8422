"""Messages between LLMs and people: every message goes into the history, and none is lost."""

from collections import Counter
from collections.abc import Callable

from broker.bounded_set import BoundedDict
from broker.errors import Problem
from broker.protocol.chat import COORDINATOR, Message, made_from, numbered, owner_of
from broker.protocol.topology import REPLIES, WATCHERS
from broker.timestamps import Instant, to_datetime
from coordinator.core.commands import AnnounceMessage, DeliverMessage, Refuse
from coordinator.core.events import Correspondence, MessageUndelivered
from coordinator.core.state import CoreState

OURS = ("fluffle.", "llm.", "user.", "group.")  # beginnings of routing keys that are not reply queues of other programs
ANSWERED = 1_000  # messages whose early answers are remembered
OF_EACH = 100  # early answers of one message


class Chat:
    """Stores messages, and returns or redirects those that found no mailbox."""

    def __init__(self, state: CoreState, advice_for: Callable[[str], str] | None) -> None:
        """`advice_for` returns what the sender can do about a receiver that has no mailbox."""
        self._state = state
        self._advice_for = advice_for
        self._answers: BoundedDict[str, list[str]] = BoundedDict(ANSWERED)  # ids of answers by the id of the question
        self._early: Counter[str] = Counter()  # by content id: copies that arrived only as undelivered so far

    def handle(self, event: Correspondence, now: Instant) -> None:
        """Store and announce a message; redirect or refuse an undelivered one."""
        message = self._named(event) if event.unnamed else event.message
        if message.id not in self._state.changes.messages:
            self._state.changes.messages[message.id] = message, now
            self._state.emit(AnnounceMessage(now, message))
            self._mind_the_order(message)
        if isinstance(event, MessageUndelivered):
            if to := _elsewhere(message, event.routing_key):
                self._state.emit(DeliverMessage(message, self._state.present_queue(to), event.sender.correlation_id))
            else:
                self._send_back(event, message, now)

    def _named(self, event: Correspondence) -> Message:
        """Give a message without an id an id: the next number or the newest one among equal messages.

        An undelivered message arrives twice, in any order.
        """
        message, newest = event.message, event.known
        while numbered(message.id, newest + 1) in self._state.changes.messages:
            newest += 1
        if isinstance(event, MessageUndelivered):
            is_new = newest == 0
            self._early[message.id] += is_new
        elif self._early[message.id]:
            is_new = False
            self._early[message.id] -= 1
        else:
            is_new = not (event.again and newest)
        self._early += Counter()  # drops what is 0
        return message.model_copy(update={"id": numbered(message.id, newest + is_new)})

    def _mind_the_order(self, message: Message) -> None:
        """Record answers that arrived before their question: both come by different connections."""
        if answers := self._answers.get(message.id):
            self._state.changes.overtaken[message.id] = list(answers)
        if message.in_reply_to is not None:
            if message.in_reply_to not in self._answers:
                self._answers[message.in_reply_to] = []
            answers = self._answers[message.in_reply_to]
            if message.id not in answers and len(answers) < OF_EACH:
                answers.append(message.id)

    def _send_back(self, event: MessageUndelivered, message: Message, now: Instant) -> None:
        sender = event.sender
        self._state.changes.undelivered.append(message.id)
        advice = f": {self._advice_for(message.receiver)}" if self._advice_for else ""
        problem = Problem("receiver", f"nobody has the address {message.receiver}{advice}")
        self._state.emit(Refuse(message.id, (problem,), sender.reply_to, sender.correlation_id, event.origin))
        if not message.is_answer and not sender.reply_to and message.sender.startswith("user."):
            self._state.emit(DeliverMessage(_notice(message, problem, now), message.sender))


def _elsewhere(message: Message, routing_key: str) -> str | None:
    """Return where an answer can go instead when the queue of its receiver is gone or has no address.

    A person finds the answer in the mailbox. An LLM, and a client of another kind, have a queue of that name.
    """
    if not message.is_answer:
        return None
    if owner := owner_of(routing_key):
        return owner if owner.startswith("user.") else routing_key
    ours = routing_key.startswith(OURS) and not routing_key.startswith((f"{REPLIES}.", f"{WATCHERS}."))
    return None if ours else routing_key


def _notice(message: Message, problem: Problem, now: Instant) -> Message:
    """Return the notice to a person that a message was not delivered."""
    return Message(
        id=made_from(message.id, COORDINATOR),
        sender=COORDINATOR,
        receiver=message.sender,
        content=f"Your message was not delivered: {problem.message}.",
        metadata={"error": "undelivered"},
        conversation_id=message.conversation_id,
        in_reply_to=message.id,
        sent_at=to_datetime(now),
    )
