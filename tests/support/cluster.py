"""A RabbitMQ cluster of private nodes on this computer. Each member has a replica of each quorum queue."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from broker.node.private_node import version_that_answers
from broker.node.record import NodeRecord
from broker.node.server import ServerProcess
from broker.secure_files import write_private
from tests.support.processes import until

_COMES_UP = 120.0  # seconds; usually 15 for three
_GOES_DOWN = 60.0  # seconds


class _Server(ServerProcess):
    """The process of a member: its Erlang cookie is that of the cluster."""

    cookie = ""

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" -setcookie {self.cookie}"
        return environment

    def control(self, *arguments: str, given: str = "") -> "CompletedProcess[str]":
        return super().control("--erlang-cookie", self.cookie, *arguments, given=given)


class Member:
    """One node of a cluster."""

    def __init__(self, folder: Path, record: NodeRecord, names: list[str], cookie: str) -> None:
        self.name = f"{record.name}@localhost"
        self.url = record.url(with_password=True)
        self._port = record.amqp_port
        self._server = _Server(folder, record)
        self._server.cookie = cookie
        (folder / "conf.d").mkdir(parents=True)
        nodes = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, 1)
        )
        write_private(
            folder / "conf.d" / "10-cluster.conf",
            f"cluster_formation.peer_discovery_backend = classic_config\n{nodes}",
        )

    @property
    def answers(self) -> bool:
        """Return whether the member accepts clients."""
        return version_that_answers(self._port) is not None

    def start(self) -> None:
        """Start the process of the member, which rejoins the cluster by itself; do not wait for that."""
        self._server.launch()

    def stop(self) -> None:
        """Shut the member down cleanly, as for an upgrade."""
        self._server.terminate()
        until(lambda: not self._server.alive(), f"{self.name} has stopped", within=_GOES_DOWN)

    def kill(self) -> None:
        """End the process with `kill -9`."""
        self._server.kill()
        until(lambda: not self._server.alive(), f"{self.name} is dead", within=_GOES_DOWN)

    def clean_up(self) -> None:
        """Kill the member if it runs, and the port mapper with the last member."""
        if self._server.alive():
            self.kill()
        self._server.clean_up()

    def asked(self, *command: str) -> object:
        """Return the JSON answer of `rabbitmqctl` on this member, or None while there is none."""
        done = self._server.control("--formatter", "json", *command)
        try:
            return None if done.returncode else json.loads(done.stdout)
        except ValueError:
            return None


class Cluster:
    """The members of a cluster, all in one folder."""

    def __init__(self, folder: Path, size: int) -> None:
        first = NodeRecord.new("process")
        records = [first] + [
            replace(NodeRecord.new("process"), password=first.password, epmd_port=first.epmd_port)
            for _ in range(size - 1)
        ]
        names = [f"{record.name}@localhost" for record in records]
        self.members = [Member(folder / record.name, record, names, first.password) for record in records]

    def start(self) -> None:
        """Start all members and wait until they form one cluster."""
        for member in self.members:
            member.start()
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until every member accepts clients and knows all the others."""
        until(self._is_whole, "the cluster is whole", within=_COMES_UP)

    def _is_whole(self) -> bool:
        if not all(member.answers for member in self.members):
            return False
        known = self.members[0].asked("cluster_status")
        return isinstance(known, dict) and len(known["running_nodes"]) == len(self.members)

    def wait_until_replicated(self) -> None:
        """Wait until every queue has a leader and an online replica on each member."""
        until(lambda: None not in map(self._leader, self._queues()), "every queue has a leader", within=_COMES_UP)

    def leader_of(self, queue: str) -> Member:
        """Return the member that leads a queue."""
        self.wait_until_replicated()
        [row] = [row for row in self._queues() if row["name"] == queue]
        leader = self._leader(row)
        assert leader is not None, f"{queue} has lost its leader"
        return leader

    def _queues(self) -> list[dict[str, Any]]:
        """Return name, leader, members and online members of each quorum queue."""
        asked = self.members[0].asked("list_queues", "name", "type", "leader", "members", "online")
        rows = asked if isinstance(asked, list) else [{"type": "quorum", "members": []}]  # no answer at the moment
        return [row for row in rows if row["type"] == "quorum"]

    def _leader(self, row: dict[str, Any]) -> Member | None:
        if len(row["members"]) < len(self.members) or set(row["online"]) != set(row["members"]):
            return None
        return next((member for member in self.members if member.name == row["leader"]), None)


@contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[Cluster]:
    """Run a cluster until the end of the block."""
    made = Cluster(folder, size)
    try:
        made.start()
        yield made
    finally:
        for member in made.members:
            member.clean_up()
