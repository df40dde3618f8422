"""Create, list and remove RabbitMQ users with exactly the permissions of their role.

Each operation is one step on RabbitMQ's definitions, a JSON document that both `rabbitmqctl` and the management API
read and write.
"""

import hashlib
import os
import secrets
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from broker.access.roles import OWN_QUEUES, Role, addresses, limits, permissions
from broker.errors import ConfigurationError

Definitions = Mapping[str, Any]


class Administration(Protocol):
    """Access to RabbitMQ's users, with administrator rights."""

    def definitions(self) -> Definitions:
        """Return RabbitMQ's definitions. Raises BrokerError or NodeError."""
        ...

    def define(self, definitions: Definitions) -> None:
        """Create or replace the given definitions, and leave all others."""
        ...

    def delete_user(self, name: str) -> None:
        """Remove a user that exists, with all its permissions."""
        ...


@dataclass(frozen=True, slots=True)
class User:
    """A user that Fluffle created. `as_granted`: its permissions are exactly those of its role."""

    name: str
    role: Role
    has_password: bool
    as_granted: bool


def users(administration: Administration, vhost: str) -> list[User]:
    """Return the users that Fluffle created, by name."""
    return sorted(_users(administration.definitions(), vhost), key=lambda user: user.name)


def grant(
    administration: Administration, vhost: str, role: Role, name: str, *, with_password: bool, renew: bool
) -> str | None:
    """Create a user, or reset the permissions of an existing one. Returns its password if that is new.

    A user without a password logs in with a TLS certificate. Raises ConfigurationError when a user of that name has
    another role, or was not created by Fluffle.
    """
    now = administration.definitions()
    known = next((user for user in _users(now, vhost) if user.name == name), None)
    account = next((it for it in now["users"] if it["name"] == name), None)
    if known is None and account is not None:
        raise ConfigurationError(f"the RabbitMQ user {name} was not created by Fluffle: choose another name")
    if known is not None and known.role is not role:
        raise ConfigurationError(f"{name} is the user of {known.role.label}: revoke it first to change its role")
    password = None
    if known is None or account is None or renew or known.has_password is not with_password:
        password = secrets.token_urlsafe(24) if with_password else None
        account = _account(role, name, password)
    if known is not None and not known.as_granted:
        administration.delete_user(name)  # definitions cannot remove surplus permissions
    account = {**account, "limits": limits(role)}
    administration.define({"users": [account], "parameters": [_operator_policy(vhost)], **_granted(role, name, vhost)})
    return password


class Revoked(NamedTuple):
    """A removed user, with the names of the queues and exchanges that remain."""

    role: Role
    queues: tuple[str, ...]
    exchanges: tuple[str, ...]


def revoke(administration: Administration, vhost: str, name: str) -> Revoked:
    """Remove a user that Fluffle created. RabbitMQ closes its connections.

    Raises ConfigurationError when there is no such user.
    """
    found = next((user for user in users(administration, vhost) if user.name == name), None)
    if found is None:
        raise ConfigurationError(f"Fluffle created no user {name}")
    administration.delete_user(name)
    now, own = administration.definitions(), addresses(found.role, name)
    return Revoked(found.role, _names(now, "queues", vhost, own), _names(now, "exchanges", vhost, own))


def _names(definitions: Definitions, kind: str, vhost: str, own: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the queues or exchanges that belong to one of the addresses."""
    there = [it["name"] for it in definitions[kind] if it["vhost"] == vhost]
    return tuple(name for name in there if any(name == of or name.startswith(f"{of}.") for of in own))


def _operator_policy(vhost: str) -> dict[str, Any]:
    value = {
        "pattern": OWN_QUEUES.pattern,
        "apply-to": "queues",
        "priority": 0,
        "definition": dict(OWN_QUEUES.definition),
    }
    return {"component": "operator_policy", "vhost": vhost, "name": OWN_QUEUES.name, "value": value}


def _account(role: Role, name: str, password: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": "" if password is None else _hashed(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": role.tag,
    }


def _hashed(password: str) -> str:
    """Return the hash that RabbitMQ stores: four random bytes, then the SHA-256 of these and the password."""
    salt = os.urandom(4)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _granted(role: Role, name: str, vhost: str) -> Definitions:
    granted = permissions(role, name)
    of = {"user": name, "vhost": vhost}
    own = {**of, "configure": granted.configure, "write": granted.write, "read": granted.read}
    topics = [{**of, "exchange": it.exchange, "write": it.write, "read": it.read} for it in granted.topics]
    return {"permissions": [own], "topic_permissions": topics}


def _users(definitions: Definitions, vhost: str) -> Iterator[User]:
    for account in definitions["users"]:
        name, tags = account["name"], account["tags"]
        for role in Role:
            if role.tag in (tags.split(",") if isinstance(tags, str) else tags):
                as_granted = _held(definitions, name) == _in_order(_granted(role, name, vhost))
                as_granted &= account.get("limits", {}) == limits(role)
                yield User(name, role, bool(account["password_hash"]), as_granted)


def _held(definitions: Definitions, name: str) -> Definitions:
    """Return the permissions of a user on all virtual hosts."""
    return _in_order(
        {kind: [it for it in definitions[kind] if it["user"] == name] for kind in ("permissions", "topic_permissions")}
    )


def _in_order(held: Definitions) -> Definitions:
    return {kind: sorted(entries, key=lambda it: sorted(it.items())) for kind, entries in held.items()}
