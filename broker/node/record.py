"""The stored record of a private RabbitMQ node: name, password, ports, and whether it should run."""

import json
import random
import secrets
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from broker.errors import NodeError
from broker.secure_files import write_private

USER = "fluffle"

# Below the ports that a system gives to outgoing connections: one of these could take a port of the node while it is
# down, and waiting clients would look for the node at the old port.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The record of one node. `wanted`: the node was started and not stopped; unless it runs, it has crashed."""

    name: str
    password: str
    amqp_port: int
    distribution_port: int
    epmd_port: int
    runs_as: Literal["process", "container"]
    wanted: bool = False

    @classmethod
    def new(cls, runs_as: Literal["process", "container"]) -> Self:
        """Create the record of a new node: random name and password, three free ports."""
        name, password = f"fluffle-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
        amqp, distribution, epmd = _free_ports(3)
        return cls(name, password, amqp, distribution, epmd, runs_as)

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """Read the record in a file; None without such a file. Raises NodeError for an unreadable file."""
        try:
            return cls(**json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise NodeError(f"The private RabbitMQ node's file {file} cannot be read: {error}") from error

    def save(self, file: Path) -> None:
        """Write the record, with the password, in one step to a file that only its owner may read."""
        write_private(file, json.dumps(asdict(self), indent=2) + "\n")

    def url(self, *, with_password: bool) -> str:
        """Return the node's AMQP URL."""
        user = f"{USER}:{self.password}" if with_password else USER
        return f"amqp://{user}@127.0.0.1:{self.amqp_port}/%2F"

    def with_free_ports(self) -> Self:
        """Replace the ports that other programs have taken."""
        own = (self.amqp_port, self.distribution_port, self.epmd_port)
        spare = iter(_free_ports(3, other_than=own))
        amqp, distribution, epmd = (port if _is_free(port) else next(spare) for port in own)
        return replace(self, amqp_port=amqp, distribution_port=distribution, epmd_port=epmd)


def _free_ports(count: int, *, other_than: Collection[int] = ()) -> list[int]:
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        if port not in other_than and _is_free(port):
            found.append(port)
    raise NodeError(f"No free TCP port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Like RabbitMQ: connections of a killed node linger, but its port is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
