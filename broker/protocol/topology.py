"""What is declared on RabbitMQ, as data: exchanges, queues, bindings and their arguments.

The arguments mean the same on every RabbitMQ from 3.10 to 4.x.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TASKS = "fluffle.tasks"
WORK = "fluffle.work"
REQUESTS = "fluffle.requests"
STATUS = "fluffle.status"
MESSAGES = "fluffle.messages"
MAILBOXES = "fluffle.mailboxes"
UNDELIVERED = "fluffle.undelivered"
QUERIES = "fluffle.queries"
EVENTS = "fluffle.events"
REJECTED = "fluffle.rejected"
UNROUTABLE = "fluffle.unroutable"
COORDINATOR = "fluffle.coordinator"
REPLIES, WATCHERS = "fluffle.reply", "fluffle.watch"  # how the exclusive queues of clients begin
EVERYBODY = "all"  # the address of every mailbox

ECHO = "coordinator.echo"  # routing key on fluffle.status of what a coordinator tells itself

DELIVERY_LIMIT = 20
KEEP_FOREVER = 1_000_000  # deliveries: unset, 4.x drops after 20; -1 discards at once on 3.10
QUERY_BACKLOG = 10_000
INBOX, INBOX_BYTES = 1_000_000, 2 * 1024**3  # most that waits for the coordinator; what is over that is refused
REJECTED_KEPT, REJECTED_BYTES = 100_000, 1024**3  # of these the oldest go first

Arguments = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. Durable and shared unless `exclusive`: then it lives as long as its connection.

    RabbitMQ may take a while to see that a connection is gone, and keeps the name of an exclusive queue until then. So
    after a reconnect a link declares it by a new name; whoever uses the link goes on with the first one.
    """

    name: str
    arguments: Arguments = field(default_factory=dict)
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages published to `exchange` with a key that fits `routing_key` go to `queue`."""

    exchange: str
    routing_key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Relay:
    """All messages published to `exchange` go on to the exchange `to` as well, with their routing keys."""

    exchange: str
    to: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of declarations, made in this order. Declaring it again changes nothing."""

    exchanges: tuple[Exchange, ...] = ()
    relays: tuple[Relay, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def durable(name: str, limits: Arguments | None = None) -> Queue:
    """A quorum queue whose undeliverable messages end in the rejected queue. It refuses what is over its limits."""
    return Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": REJECTED,
            "x-dead-letter-routing-key": f"dead.{name}",
            "x-dead-letter-strategy": "at-least-once",
            "x-delivery-limit": DELIVERY_LIMIT,
            **(limits or {}),
        },
    )


def _exchange(name: str, kind: str) -> Exchange:
    return Exchange(name, kind, {"alternate-exchange": REJECTED})


TASK_KEYS = ("submit", "cancel", "retry", "assign", "update", "manage", "answer", "share", "read", "save_report")
LLM_REQUESTS = ("submit", "cancel", "retry", "assign", "update", "share", "read")  # of the task keys, for LLMs
QUERY_KEYS = ("task", "tasks", "llms", "placement", "report", "reports", "messages", "conversations")

SHARED = Topology(
    exchanges=(
        Exchange(UNROUTABLE, "fanout"),
        # Dead letters and what the coordinator has refused go to the rejected queue. What no queue has taken goes on
        # to the coordinator first: it can answer, tell everybody, and say what was wrong.
        Exchange(REJECTED, "topic", {"alternate-exchange": UNROUTABLE}),
        Exchange(EVENTS, "topic"),
        _exchange(TASKS, "direct"),
        # What LLMs ask for: `<llm>.<task key>`. RabbitMQ checks the routing keys of topic exchanges only.
        _exchange(REQUESTS, "topic"),
        _exchange(WORK, "direct"),
        _exchange(STATUS, "topic"),
        _exchange(MESSAGES, "topic"),
        # A message goes to the coordinator, for the history, and on to the mailboxes. What is for none of them goes to
        # the coordinator a second time, by a queue that tells so.
        Exchange(UNDELIVERED, "fanout"),
        Exchange(MAILBOXES, "topic", {"alternate-exchange": UNDELIVERED}),
        _exchange(QUERIES, "direct"),
    ),
    relays=(Relay(MESSAGES, MAILBOXES),),
    queues=(
        Queue(
            REJECTED,
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": KEEP_FOREVER,
                "x-max-length": REJECTED_KEPT,
                "x-max-length-bytes": REJECTED_BYTES,
            },
        ),
        durable(COORDINATOR, {"x-max-length": INBOX, "x-max-length-bytes": INBOX_BYTES}),
        durable(UNDELIVERED),
        Queue(
            QUERIES,
            {"x-queue-type": "quorum", "x-max-length": QUERY_BACKLOG, "x-overflow": "reject-publish"},
        ),
    ),
    bindings=(
        Binding(REJECTED, "dead.#", REJECTED),
        Binding(REJECTED, "rejected.#", REJECTED),
        Binding(UNROUTABLE, "", COORDINATOR),
        Binding(REQUESTS, "#", COORDINATOR),
        Binding(STATUS, "#", COORDINATOR),
        Binding(MESSAGES, "#", COORDINATOR),
        Binding(UNDELIVERED, "", UNDELIVERED),
        *(Binding(TASKS, key, COORDINATOR) for key in TASK_KEYS),
        *(Binding(QUERIES, key, QUERIES) for key in QUERY_KEYS),
    ),
)

EXCHANGES = frozenset(exchange.name for exchange in SHARED.exchanges)


def llm_address(name: str) -> str:
    """The address of an LLM: its mailbox and the routing key of its work."""
    return f"llm.{name}"


def work_queue(name: str) -> str:
    """The queue of an LLM's assignments."""
    return f"llm.{name}.work"


def control_address(name: str, instance: str) -> str:
    """The address of one instance of an LLM, and its first control queue: after a reconnect it has another one."""
    return f"llm.{name}.{instance}"


def user_address(name: str) -> str:
    """The address of a person: their mailbox."""
    return f"user.{name}"


def group_address(name: str) -> str:
    """The address of a group: of all mailboxes that have joined it."""
    return f"group.{name}"


def mailbox(address: str, groups: Iterable[str] = ()) -> Topology:
    """The mailbox of an LLM or a person: what is sent to its address, to everybody, and to these groups.

    A group that was joined before and is not named here stays joined. A person may look at a message again and again
    without taking it.
    """
    keys = (address, EVERYBODY)
    own = (Binding(MAILBOXES, key, address) for key in keys)
    queue = durable(address, {"x-delivery-limit": KEEP_FOREVER} if address.startswith("user.") else {})
    return Topology(queues=(queue,), bindings=(*own, *memberships(address, groups).bindings))


def memberships(address: str, groups: Iterable[str]) -> Topology:
    """What makes a mailbox one of these groups."""
    return Topology(bindings=tuple(membership(address, group) for group in groups))


def membership(address: str, group: str) -> Binding:
    """What makes a mailbox one of a group."""
    return Binding(MAILBOXES, group_address(group), address)


def llm_topology(name: str, groups: Iterable[str] = ()) -> Topology:
    """What all instances of an LLM share. An LLM with no more than its own rights finds it declared."""
    mail = mailbox(llm_address(name), groups)
    return Topology(
        queues=(durable(work_queue(name)), *mail.queues),
        bindings=(Binding(WORK, llm_address(name), work_queue(name)), *mail.bindings),
    )


def instance_topology(name: str, instance: str, *, is_bound: bool = True) -> Topology:
    """What an instance declares for itself alone.

    Orders come straight to its control queue, without a binding: who may bind to fluffle.work could bind to the
    work of others. The binding is for answers to its messages. Where it is missing, the coordinator passes them on.
    """
    address = control_address(name, instance)
    bindings = (Binding(MAILBOXES, address, address),) if is_bound else ()
    return Topology(queues=(Queue(address, exclusive=True),), bindings=bindings)
