"""Who may do what on RabbitMQ: its users, by role, with the permissions that follow from the topology.

RabbitMQ checks a permission as a regular expression on the name of an exchange or a queue, and on a topic exchange
another one on the routing key. Whoever may bind a queue to a direct exchange may bind it to every key: so nobody but
the coordinator may read one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from broker.amqp.envelope import Delivery
from broker.errors import ConfigurationError
from broker.protocol.primitives import NAME_PATTERN
from broker.protocol.topology import (
    EVENTS,
    EVERYBODY,
    LLM_REQUESTS,
    MAILBOXES,
    MESSAGES,
    QUERIES,
    REJECTED,
    REPLIES,
    REQUESTS,
    STATUS,
    TASKS,
    WATCHERS,
    Topology,
    group_address,
    llm_address,
    llm_topology,
    mailbox,
    user_address,
)

_NOTHING = ""
_ANYTHING = ".*"
_DEFAULT_EXCHANGE = "amq.default"
_EXCLUSIVE_QUEUES = (f"{REPLIES}.*", f"{WATCHERS}.*", "amq.gen-*")  # of clients; each is exclusive to its connection
_OF_DEAD_LETTERS = ("x-death", "x-first-death-queue", "x-last-death-queue")  # headers that RabbitMQ adds
_BELONGS_TO_SOMEBODY = re.compile(r"(fluffle|llm|user|group)\.")


class Role(StrEnum):
    """What a user of RabbitMQ is for."""

    LLM = "llm"
    CLIENT = "client"
    WEB = "web"
    COORDINATOR = "coordinator"

    @property
    def is_one(self) -> bool:
        """Whether there is one user of this role, named as it."""
        return self in (Role.WEB, Role.COORDINATOR)

    @property
    def told(self) -> str:
        """What such a user is, for people."""
        match self:
            case Role.LLM:
                return "an LLM"
            case Role.CLIENT:
                return "a client"
            case Role.WEB:
                return "the web page"
            case Role.COORDINATOR:
                return "the coordinator"

    @property
    def tag(self) -> str:
        """The tag of its users: to RabbitMQ it means nothing."""
        return f"fluffle-{self}"


@dataclass(frozen=True, slots=True)
class OperatorPolicy:
    """Bounds for all queues whose names match a regular expression. A queue's own arguments cannot exceed them."""

    name: str
    pattern: str
    definition: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TopicPermission:
    """Which routing keys of a topic exchange may be published with, and bound to. Regular expressions."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may declare and delete, publish to and bind, consume and bind to. Regular expressions on names.

    A topic exchange that `topics` does not name is open to whoever may use it at all.
    """

    configure: str
    write: str
    read: str
    topics: tuple[TopicPermission, ...] = ()


MOST_CONNECTIONS, MOST_CHANNELS = 200, 400
"""Of the user of one LLM, all its instances together. An instance has two of each."""

OWN_QUEUES = OperatorPolicy(
    "fluffle-llm-queues",
    r"^llm\.[a-z0-9-]+\.(?!work$)",
    {"max-length": 100_000, "max-length-bytes": 64 * 1024**2, "expires": 3_600_000},
)
"""The bounds of the queues that LLMs declare: messages, bytes, and milliseconds without a consumer."""


def permissions(role: Role, name: str) -> Permissions:
    """What the user `name` of that role may do."""
    match role:
        case Role.LLM:
            address = llm_address(name)
            return Permissions(
                configure=_control_queues(address),
                write=_any_of(STATUS, REQUESTS, MESSAGES, address),
                read=_any_of(MAILBOXES, *_of(address)),
                topics=(
                    TopicPermission(STATUS, write=_any_of(f"{name}.*"), read=_NOTHING),
                    TopicPermission(REQUESTS, write=_any_of(*(f"{name}.{key}" for key in LLM_REQUESTS)), read=_NOTHING),
                    *_mail(address),
                ),
            )
        case Role.CLIENT | Role.WEB:
            more = (REJECTED,) if role is Role.WEB else ()  # the queue, and not what is published to the exchange
            address = user_address(name)
            own = (*_of(address), *_EXCLUSIVE_QUEUES)
            return Permissions(
                configure=_any_of(*own),
                write=_any_of(TASKS, QUERIES, MESSAGES, *own),
                read=_any_of(EVENTS, STATUS, MAILBOXES, *own, *more),
                topics=(
                    TopicPermission(EVENTS, write=_NOTHING, read=_ANYTHING),
                    TopicPermission(STATUS, write=_NOTHING, read=r"\.progress$"),
                    *_mail(address),
                    *(TopicPermission(exchange, write=_NOTHING, read=_NOTHING) for exchange in more),
                ),
            )
        case Role.COORDINATOR:
            return Permissions(
                configure=_any_of("fluffle.*"),
                write=_any_of("fluffle.*", _DEFAULT_EXCHANGE),
                read=_any_of("fluffle.*"),
            )
        case _:
            assert_never(role)


def limits(role: Role) -> dict[str, int]:
    """RabbitMQ's limits for a user of that role."""
    return {"max-connections": MOST_CONNECTIONS, "max-channels": MOST_CHANNELS} if role is Role.LLM else {}


def addresses(role: Role, name: str) -> tuple[str, ...]:
    """What the names of a user's own queues are, or begin with when a dot follows."""
    match role:
        case Role.LLM:
            return (llm_address(name),)
        case Role.CLIENT | Role.WEB:
            return (user_address(name),)
        case _:
            return ()


def owned(role: Role, name: str) -> Topology:
    """What has to be declared for the user, because it may not do so itself."""
    match role:
        case Role.LLM:
            return llm_topology(name)
        case Role.CLIENT | Role.WEB:
            return mailbox(user_address(name))
        case _:
            return Topology()


def user_name(role: Role, name: str | None) -> str:
    """The name of the user. Raises ConfigurationError when a user of that role cannot have it."""
    if role.is_one:
        if name is not None:
            raise ConfigurationError(f"{role.told} has no other name: `fluffle broker grant {role}`")
        return role.value
    if name is None:
        raise ConfigurationError(f"say which: `fluffle broker grant {role} NAME`")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigurationError(f"{name!r} is no name: a-z, 0-9 and -, at most 63 characters")
    if name in [other.value for other in Role if other.is_one]:
        raise ConfigurationError(f"the name {name} is reserved")
    return name


def speaks_for(user: str | None, address: str) -> bool:
    """Whether what this user says may have that address as its sender."""
    return user is not None and address in (llm_address(user), user_address(user))


def is_genuine(message: Delivery) -> bool:
    """Whether a status message is from the LLM that its routing key names.

    RabbitMQ checks the routing key of a message that is published to the exchange itself, but not of a dead letter or
    of a message that comes through a binding from another exchange.
    """
    llm = llm_address(message.routing_key.rpartition(".")[0])
    return (
        message.exchange == STATUS
        and not was_dead_lettered(message.headers)
        and speaks_for(message.properties.user_id, llm)
    )


def may_be_answered_at(user: str | None, queue: str) -> bool:
    """Whether an answer to this user may go to that queue: not to one that belongs to somebody else.

    The coordinator may publish to every queue, and must not be made to do it for others.
    """
    if not _BELONGS_TO_SOMEBODY.match(queue) or queue.startswith((f"{REPLIES}.", f"{WATCHERS}.")):
        return True
    return any(queue == own or queue.startswith(f"{own}.") for own in (f"llm.{user}", f"user.{user}"))


def was_dead_lettered(headers: Mapping[str, object]) -> bool:
    """Whether a message with these headers was passed on by a queue.

    Anybody may have declared that queue, and the message names the user who published it for somebody else.
    """
    return any(name in headers for name in _OF_DEAD_LETTERS)


def _of(address: str) -> tuple[str, str]:
    """The queues of an address: its own, and those that it has for a while."""
    return address, f"{address}.*"


def _control_queues(address: str) -> str:
    """The queues that an LLM declares itself. Nothing but RabbitMQ's default exchange leads to them.

    An LLM may not declare its mailbox and its work queue, whose arguments say where dead letters go, and it may not
    write to what it declares: so it can bind neither a queue nor an exchange of its own.
    """
    return f"^({re.escape(address)}\\.(?!work$).*)$"


def _mail(address: str) -> tuple[TopicPermission, ...]:
    """Send to everybody; get what is for the address, for everybody, and for groups, which are open to all."""
    return (
        TopicPermission(MESSAGES, write=_ANYTHING, read=_NOTHING),
        TopicPermission(MAILBOXES, write=_NOTHING, read=_any_of(*_of(address), EVERYBODY, group_address("*"))),
    )


def _any_of(*names: str) -> str:
    """An expression for these names, of which those that end in `*` stand for all that begin so."""
    return f"^({'|'.join(_alternatives(names))})$"


def _alternatives(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        yield re.escape(name.removesuffix("*")) + (".*" if name.endswith("*") else "")
