"""The roles of RabbitMQ users, and the permissions of each role, derived from the topology.

RabbitMQ checks a permission as a regular expression on the name of an exchange or a queue, and on a topic exchange
another one on the routing key. A user who may bind a queue to a direct exchange may bind it with every key: so only
the coordinator may read direct exchanges.
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
_DEAD_LETTER_HEADERS = ("x-death", "x-first-death-queue", "x-last-death-queue")  # headers that RabbitMQ adds
_OWNED_QUEUE = re.compile(r"(fluffle|llm|user|group)\.")


class Role(StrEnum):
    """The role of a RabbitMQ user."""

    LLM = "llm"
    CLIENT = "client"
    WEB = "web"
    COORDINATOR = "coordinator"

    @property
    def is_one(self) -> bool:
        """Whether the role has exactly one user, whose name is that of the role."""
        return self in (Role.WEB, Role.COORDINATOR)

    @property
    def label(self) -> str:
        """The role in error messages."""
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
        """The tag of the role's users, without a meaning for RabbitMQ."""
        return f"fluffle-{self}"


@dataclass(frozen=True, slots=True)
class OperatorPolicy:
    """Limits for all queues whose names match a regular expression. Arguments of a queue cannot exceed them."""

    name: str
    pattern: str
    definition: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TopicPermission:
    """The routing keys that a user may publish with (`write`) and bind to (`read`), as regular expressions."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Permissions:
    """The permissions of a user, as regular expressions on names.

    `configure`: declare and delete; `write`: publish to, and bind; `read`: consume, and bind to. Users of a topic
    exchange that `topics` does not name may use all routing keys.
    """

    configure: str
    write: str
    read: str
    topics: tuple[TopicPermission, ...] = ()


MOST_CONNECTIONS, MOST_CHANNELS = 200, 400
"""The limits of one LLM's user, for all its instances together. An instance has two of each."""

OWN_QUEUES = OperatorPolicy(
    "fluffle-llm-queues",
    r"^llm\.[a-z0-9-]+\.(?!work$)",
    {"max-length": 100_000, "max-length-bytes": 64 * 1024**2, "expires": 3_600_000},
)
"""The limits of the queues that LLMs declare: messages, bytes, and milliseconds without a consumer."""


def permissions(role: Role, name: str) -> Permissions:
    """Return the permissions of the user `name` with a role."""
    match role:
        case Role.LLM:
            address = llm_address(name)
            return Permissions(
                configure=_control_queues(address),
                write=_any_of(STATUS, REQUESTS, MESSAGES, address),
                read=_any_of(MAILBOXES, *_queues_of(address)),
                topics=(
                    TopicPermission(STATUS, write=_any_of(f"{name}.*"), read=_NOTHING),
                    TopicPermission(REQUESTS, write=_any_of(*(f"{name}.{key}" for key in LLM_REQUESTS)), read=_NOTHING),
                    *_mail_permissions(address),
                ),
            )
        case Role.CLIENT | Role.WEB:
            more = (REJECTED,) if role is Role.WEB else ()  # the queue, but not messages of the exchange
            address = user_address(name)
            own = (*_queues_of(address), *_EXCLUSIVE_QUEUES)
            return Permissions(
                configure=_any_of(*own),
                write=_any_of(TASKS, QUERIES, MESSAGES, *own),
                read=_any_of(EVENTS, STATUS, MAILBOXES, *own, *more),
                topics=(
                    TopicPermission(EVENTS, write=_NOTHING, read=_ANYTHING),
                    TopicPermission(STATUS, write=_NOTHING, read=r"\.progress$"),
                    *_mail_permissions(address),
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
    """Return RabbitMQ's limits for a user with a role."""
    return {"max-connections": MOST_CONNECTIONS, "max-channels": MOST_CHANNELS} if role is Role.LLM else {}


def addresses(role: Role, name: str) -> tuple[str, ...]:
    """Return the addresses of a user: the names of its queues, or their beginnings before a dot."""
    match role:
        case Role.LLM:
            return (llm_address(name),)
        case Role.CLIENT | Role.WEB:
            return (user_address(name),)
        case _:
            return ()


def owned(role: Role, name: str) -> Topology:
    """Return the declarations that an administrator makes for a user, who may not make them."""
    match role:
        case Role.LLM:
            return llm_topology(name)
        case Role.CLIENT | Role.WEB:
            return mailbox(user_address(name))
        case _:
            return Topology()


def user_name(role: Role, name: str | None) -> str:
    """Return the name of the user. Raises ConfigurationError for a name that a user with the role cannot have."""
    if role.is_one:
        if name is not None:
            raise ConfigurationError(f"{role.label} takes no NAME: `fluffle broker grant {role}`")
        return role.value
    if name is None:
        raise ConfigurationError(f"NAME is missing: `fluffle broker grant {role} NAME`")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigurationError(f"{name!r} is not a valid name: use 1-63 of a-z, 0-9 and '-' (not first)")
    if name in [other.value for other in Role if other.is_one]:
        raise ConfigurationError(f"the name {name} is reserved")
    return name


def speaks_for(user: str | None, address: str) -> bool:
    """Whether a user may send messages from an address."""
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
    """Whether the coordinator may answer a user at a queue: not at a queue of another user.

    The coordinator may publish to every queue, and must not do so on behalf of users without that permission.
    """
    if not _OWNED_QUEUE.match(queue) or queue.startswith((f"{REPLIES}.", f"{WATCHERS}.")):
        return True
    return any(queue == own or queue.startswith(f"{own}.") for own in (f"llm.{user}", f"user.{user}"))


def was_dead_lettered(headers: Mapping[str, object]) -> bool:
    """Whether a message with these headers came through another queue, as a dead letter.

    Any user may have declared that queue; the message still names the user who published it first.
    """
    return any(name in headers for name in _DEAD_LETTER_HEADERS)


def _queues_of(address: str) -> tuple[str, str]:
    """The queues of an address: its mailbox, and its temporary queues."""
    return address, f"{address}.*"


def _control_queues(address: str) -> str:
    """The queues that an LLM declares. Only RabbitMQ's default exchange routes to them.

    An LLM may not declare its mailbox and its work queue, whose arguments name the target of dead letters. It may not
    write to the queues that it declares, so it cannot bind them.
    """
    return f"^({re.escape(address)}\\.(?!work$).*)$"


def _mail_permissions(address: str) -> tuple[TopicPermission, ...]:
    """Send to all addresses; receive messages to the address, to everybody, and to groups, which are open to all."""
    return (
        TopicPermission(MESSAGES, write=_ANYTHING, read=_NOTHING),
        TopicPermission(MAILBOXES, write=_NOTHING, read=_any_of(*_queues_of(address), EVERYBODY, group_address("*"))),
    )


def _any_of(*names: str) -> str:
    """Return a regular expression for names; a name that ends in `*` matches all names with that beginning."""
    return f"^({'|'.join(_alternatives(names))})$"


def _alternatives(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        yield re.escape(name.removesuffix("*")) + (".*" if name.endswith("*") else "")
