"""What a private RabbitMQ node remembers between its starts: name, password, ports, and whether it should be up."""

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

# Below the ports that a system hands out to outgoing connections: one of those could take ours while the node is
# down, and clients that wait for it to come back would look for it at the old place.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One private node. `wanted`: it was started and not stopped since, so if it does not run, it crashed."""

    name: str
    password: str
    amqp_port: int
    distribution_port: int
    epmd_port: int
    runs_as: Literal["process", "container"]
    wanted: bool = False

    @classmethod
    def new(cls, runs_as: Literal["process", "container"]) -> Self:
        """A node that has never run: random name and password, three free ports."""
        name, password = f"fluffle-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
        amqp, distribution, epmd = _free_ports(3)
        return cls(name, password, amqp, distribution, epmd, runs_as)

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """The node recorded in `file`, None when there is no such file. Raises NodeError when it is unreadable."""
        try:
            return cls(**json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise NodeError(f"The private RabbitMQ node's file {file} cannot be read: {error}") from error

    def save(self, file: Path) -> None:
        """Write the record in one step, readable by its owner only, for it holds the password."""
        write_private(file, json.dumps(asdict(self), indent=2) + "\n")

    def url(self, *, with_password: bool) -> str:
        """The node's AMQP URL."""
        user = f"{USER}:{self.password}" if with_password else USER
        return f"amqp://{user}@127.0.0.1:{self.amqp_port}/%2F"

    def with_free_ports(self) -> Self:
        """The same node with those of its ports replaced that somebody else has taken."""
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
        # As RabbitMQ does it: connections of a node that was killed linger, and must not make its port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
