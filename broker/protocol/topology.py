"""The exchanges, queues and bindings on RabbitMQ, as data.

The arguments have the same meaning on every RabbitMQ from 3.10 to 4.x.
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
REPLIES, WATCHERS = "fluffle.reply", "fluffle.watch"  # prefixes of the exclusive queues of clients
EVERYBODY = "all"  # the address of every mailbox

ECHO = "coordinator.echo"  # routing key on fluffle.status of a coordinator's messages to itself

DELIVERY_LIMIT = 20
KEEP_FOREVER = 1_000_000  # deliveries. Without a limit, 4.x drops after 20; a limit of -1 discards at once on 3.10
QUERY_BACKLOG = 10_000
INBOX, INBOX_BYTES = 1_000_000, 2 * 1024**3  # limits of the coordinator's inbox: more messages are refused
REJECTED_KEPT, REJECTED_BYTES = 100_000, 1024**3  # limits of the rejected queue: the oldest messages are dropped

Arguments = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: durable and shared, or `exclusive`, which lives as long as its connection.

    RabbitMQ may notice the end of a connection late, and keeps the name of an exclusive queue until then. So a
    connection declares the queue under a new name after a reconnect; users of the connection keep the first name.
    """

    name: str
    arguments: Arguments = field(default_factory=dict)
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Routes messages of `exchange` whose routing key matches `routing_key` to `queue`."""

    exchange: str
    routing_key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Relay:
    """Routes all messages of `exchange` also to the exchange `to`, with their routing keys."""

    exchange: str
    to: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of declarations, made in this order. A repeated declaration changes nothing."""

    exchanges: tuple[Exchange, ...] = ()
    relays: tuple[Relay, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def durable(name: str, limits: Arguments | None = None) -> Queue:
    """Return a quorum queue that refuses messages over its limits; its dead letters go to the rejected queue."""
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


TASK_KEYS = (
    *("submit", "cancel", "retry", "assign", "update", "answer", "share", "read"),
    *("manage", "manage_limit", "manage_budget", "spending", "save_report"),
)
LLM_REQUESTS = ("submit", "cancel", "retry", "assign", "update", "share", "read")  # the task keys that LLMs may use
QUERY_KEYS = (
    "task",
    "tasks",
    "llms",
    "placement",
    "report",
    "reports",
    "messages",
    "conversations",
    "limits",
    "budgets",
)

SHARED = Topology(
    exchanges=(
        Exchange(UNROUTABLE, "fanout"),
        # Dead letters and messages that the coordinator refused go to the rejected queue. A message that no queue
        # takes goes to the coordinator first, which answers, publishes an event, and adds the reason.
        Exchange(REJECTED, "topic", {"alternate-exchange": UNROUTABLE}),
        Exchange(EVENTS, "topic"),
        _exchange(TASKS, "direct"),
        # Requests of LLMs: `<llm>.<task key>`. RabbitMQ checks permissions on routing keys of topic exchanges only.
        _exchange(REQUESTS, "topic"),
        _exchange(WORK, "direct"),
        _exchange(STATUS, "topic"),
        _exchange(MESSAGES, "topic"),
        # A message goes to the coordinator, for the history, and to the mailboxes. A message for no mailbox goes to the
        # coordinator a second time, through the queue of undelivered messages.
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
    """Return the address of an LLM: the name of its mailbox and the routing key of its assignments."""
    return f"llm.{name}"


def work_queue(name: str) -> str:
    """Return the name of the queue of an LLM's assignments."""
    return f"llm.{name}.work"


def control_address(name: str, instance: str) -> str:
    """Return the address of an instance of an LLM: the name of its first control queue, before a reconnect."""
    return f"llm.{name}.{instance}"


def user_address(name: str) -> str:
    """Return the address of a person: the name of their mailbox."""
    return f"user.{name}"


def group_address(name: str) -> str:
    """Return the address of a group: of all mailboxes that have joined it."""
    return f"group.{name}"


def mailbox(address: str, groups: Iterable[str] = ()) -> Topology:
    """Return the mailbox of an LLM or a person, bound to its address, to everybody, and to groups.

    The mailbox stays in groups that it joined before. A person may view a message many times without taking it.
    """
    keys = (address, EVERYBODY)
    own = (Binding(MAILBOXES, key, address) for key in keys)
    queue = durable(address, {"x-delivery-limit": KEEP_FOREVER} if address.startswith("user.") else {})
    return Topology(queues=(queue,), bindings=(*own, *memberships(address, groups).bindings))


def memberships(address: str, groups: Iterable[str]) -> Topology:
    """Return the bindings that make a mailbox a member of groups."""
    return Topology(bindings=tuple(membership(address, group) for group in groups))


def membership(address: str, group: str) -> Binding:
    """Return the binding that makes a mailbox a member of a group."""
    return Binding(MAILBOXES, group_address(group), address)


def llm_topology(name: str, groups: Iterable[str] = ()) -> Topology:
    """Return the declarations that the instances of an LLM share. A user with only an LLM's rights cannot make them."""
    mail = mailbox(llm_address(name), groups)
    return Topology(
        queues=(durable(work_queue(name)), *mail.queues),
        bindings=(Binding(WORK, llm_address(name), work_queue(name)), *mail.bindings),
    )


def instance_topology(name: str, instance: str, *, is_bound: bool = True) -> Topology:
    """Return the declarations of one instance.

    The coordinator publishes commands directly to the control queue, without a binding: a user who may bind to
    fluffle.work could bind to the work of others. The binding is for answers to messages of the instance; without it,
    the coordinator forwards them.
    """
    address = control_address(name, instance)
    bindings = (Binding(MAILBOXES, address, address),) if is_bound else ()
    return Topology(queues=(Queue(address, exclusive=True),), bindings=bindings)
