"""Messages between LLMs and people: all of them go into the history, and none vanishes."""

from collections import Counter

from broker.bounded_set import BoundedDict
from broker.errors import Problem
from broker.protocol.chat import COORDINATOR, Message, made_from, numbered, owner_of
from broker.protocol.topology import REPLIES, WATCHERS
from broker.timestamps import Instant, to_datetime
from coordinator.core.commands import AnnounceMessage, DeliverMessage, Refuse
from coordinator.core.events import Correspondence, MessageUndelivered
from coordinator.core.state import CoreState

OURS = ("fluffle.", "llm.", "user.", "group.")  # routing keys that are not the reply queues of strangers
ANSWERED = 1_000  # messages of which it is known for a while that answers have come
OF_EACH = 100  # such answers


class Chat:
    """Keeps what was said, and brings back or sends on what has found no mailbox."""

    def __init__(self, board: CoreState) -> None:
        self._state = board
        self._answers: BoundedDict[str, list[str]] = BoundedDict(ANSWERED)  # ids by the id of what they answer
        self._early: Counter[str] = Counter()  # without ids and mailboxes: how many came only as undelivered so far

    def handle(self, event: Correspondence, now: Instant) -> None:
        """Do what follows from a message."""
        message = self._named(event) if event.unnamed else event.message
        if message.id not in self._state.changes.messages:
            self._state.changes.messages[message.id] = message, now
            self._state.say(AnnounceMessage(now, message))
            self._mind_the_order(message)
        if isinstance(event, MessageUndelivered):
            if to := _elsewhere(message, event.routing_key):
                self._state.say(DeliverMessage(message, self._state.present_queue(to), event.sender.correlation_id))
            else:
                self._send_back(event, message, now)

    def _named(self, event: Correspondence) -> Message:
        """A message without an id under one that only it has: of those that say the same, the next or the newest.

        One without a mailbox comes twice, in any order.
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
        """An answer and what it answers come by different connections: RabbitMQ may bring the answer first."""
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
        problem = Problem("receiver", f"nobody has the address {message.receiver}: {_advice(message.receiver)}")
        self._state.say(Refuse(message.id, (problem,), sender.reply_to, sender.correlation_id, event.origin))
        if not message.is_answer and not sender.reply_to and message.sender.startswith("user."):
            self._state.say(DeliverMessage(_notice(message, problem, now), message.sender))


def _elsewhere(message: Message, routing_key: str) -> str | None:
    """Where an answer can go instead, when who waited for it has gone or is not known to RabbitMQ by an address.

    A person finds it in their mailbox. An LLM, and a client that is no part of this, have a queue of that name.
    """
    if not message.is_answer:
        return None
    if owner := owner_of(routing_key):
        return owner if owner.startswith("user.") else routing_key
    ours = routing_key.startswith(OURS) and not routing_key.startswith((f"{REPLIES}.", f"{WATCHERS}."))
    return None if ours else routing_key


def _advice(address: str) -> str:
    kind, _, name = address.partition(".")
    match kind:
        case "llm":
            return f"no worker of that name has ever run; start one with `fluffle worker {name}`"
        case "user":
            return f"{name} gets a mailbox with the first `fluffle message inbox --as {name}`"
        case _:
            joining = f"LLMs join it with `fluffle worker --group {name}`, people with `fluffle message join {name}`"
            return f"nobody is in the group; {joining}"


def _notice(message: Message, problem: Problem, now: Instant) -> Message:
    """What a person finds in their mailbox about a message of theirs."""
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
