"""A private RabbitMQ node, which Fluffle starts and stops, for one user, on 127.0.0.1 only.

The folder `<state folder>/broker` holds its data, logs and configuration, and `node.json` with its password and ports.
Nodes of different state folders, and the system's RabbitMQ, are independent of each other.
"""

import fcntl
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from broker.amqp.url import split_url
from broker.errors import NodeError
from broker.node.container import Container, container_wanted, engine_has_image
from broker.node.record import NodeRecord
from broker.node.server import SERVER_VARIABLE, RabbitMQNotFound, ServerProcess, find_server
from broker.secure_files import make_private_folder

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_START_TIMEOUT_SECONDS = 120.0  # a start usually takes 6
_STOP_TIMEOUT_SECONDS = 60.0  # a stop usually takes 1


class NodeStartFailed(NodeError):
    """The private RabbitMQ node did not start"""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The present state of a private node. `url` is without the password; `since` is in UTC."""

    state: Literal["running", "starting", "stopping", "crashed", "stopped"]
    folder: Path
    url: str | None = None
    runs_as: Literal["process", "container"] | None = None
    version: str | None = None
    pid: int | None = None
    since: datetime | None = None


class _Runner(Protocol):
    """The way a node runs: as a process or in a container."""

    @property
    def log_place(self) -> str: ...
    def control(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]": ...
    def launch(self) -> None: ...
    def alive(self) -> bool: ...
    def pid(self) -> int | None: ...
    def since(self) -> datetime | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def clean_up(self) -> None: ...
    def last_words(self) -> str: ...


def running_url(state_dir: Path) -> str | None:
    """Return the AMQP URL with password of the running private node; None when there is none or it was stopped.

    A crashed node is started again. Raises NodeStartFailed.
    """
    node = PrivateNode(state_dir)
    state = node.status().state
    if state in ("stopped", "stopping"):
        return None
    if state == "crashed":
        _log.warning("The private RabbitMQ node has crashed; starting it again …")
    return node.start()


class PrivateNode:
    """The private node of a state folder, running or not."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir.absolute() / "broker"
        self._file = self.folder / "node.json"

    def start(self, *, timeout: float = _START_TIMEOUT_SECONDS) -> str:
        """Start the node unless it runs, wait until it accepts clients, and return its AMQP URL with password.

        The node outlives this process. It gets free ports at its first start, and keeps them unless another program
        takes one. Raises RabbitMQNotFound, and NodeStartFailed with the node's output when the node ends or is not
        ready after `timeout` seconds.
        """
        with self._one_command_at_a_time():
            record = NodeRecord.load(self._file) or NodeRecord.new(way_to_run())
            runner = self._runner(record)
            if not record.wanted and runner.alive():
                self._end(runner)  # a stop was interrupted
            if not runner.alive():
                if record.wanted:
                    runner.clean_up()
                record = replace(record.with_free_ports(), wanted=True)
                record.save(self._file)
                runner = self._runner(record)
                runner.launch()
            self._wait_until_ready(runner, record, timeout)
        return record.url(with_password=True)

    def stop(self, *, timeout: float = _STOP_TIMEOUT_SECONDS) -> bool:
        """Stop the node; kill it after `timeout` seconds. Returns whether a node was running or wanted."""
        if NodeRecord.load(self._file) is None:
            return False  # without a new folder
        with self._one_command_at_a_time():
            record = NodeRecord.load(self._file)
            if record is None:
                return False
            replace(record, wanted=False).save(self._file)
            return self._end(self._runner(record), timeout) or record.wanted

    def status(self) -> NodeStatus:
        """Return the present state of the node, without changes."""
        record = NodeRecord.load(self._file)
        if record is None:
            return NodeStatus("stopped", self.folder)
        runner = self._runner(record)
        if not runner.alive():
            state: Literal["crashed", "stopped"] = "crashed" if record.wanted else "stopped"
            return NodeStatus(state, self.folder, runs_as=record.runs_as)
        version = version_that_answers(record.amqp_port)
        return NodeStatus(
            "stopping" if not record.wanted else "running" if version else "starting",
            self.folder,
            record.url(with_password=False),
            record.runs_as,
            version,
            runner.pid(),
            runner.since(),
        )

    def is_at(self, url: str) -> bool:
        """Whether an AMQP URL is that of this node."""
        record, parts = NodeRecord.load(self._file), split_url(url)
        return record is not None and (parts.hostname, parts.port) == ("127.0.0.1", record.amqp_port)

    def control(self, *arguments: str, given: str = "") -> str:
        """Run `rabbitmqctl` with `given` on its standard input, and return its output. Raises NodeError."""
        record = NodeRecord.load(self._file)
        if record is None:
            raise NodeError("There is no private RabbitMQ node.")
        done = self._runner(record).control(*arguments, given=given)
        if done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise NodeError(f"rabbitmqctl {arguments[0]} failed: {said}")
        return done.stdout

    def _runner(self, record: NodeRecord) -> _Runner:
        return (Container if record.runs_as == "container" else ServerProcess)(self.folder, record)

    def _wait_until_ready(self, runner: _Runner, record: NodeRecord, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not version_that_answers(record.amqp_port):
            if not runner.alive():
                words = _start_error(runner.last_words())
                runner.clean_up()
                raise NodeStartFailed(
                    "The private RabbitMQ node ended while it started. Fix the error below, then run "
                    f"`fluffle broker start`. Its logs are in {runner.log_place}.\n{words}"
                )
            if time.monotonic() > deadline:
                raise NodeStartFailed(
                    f"The private RabbitMQ node has not answered for {timeout:.0f} s and may still be starting. "
                    f"See `fluffle broker status` and its logs in {runner.log_place}."
                )
            time.sleep(_POLL_SECONDS)

    def _end(self, runner: _Runner, timeout: float = _STOP_TIMEOUT_SECONDS) -> bool:
        deadline = time.monotonic() + timeout
        was_alive = runner.alive()
        if was_alive:
            runner.terminate()
        while runner.alive():
            if time.monotonic() > deadline:
                runner.kill()
            time.sleep(_POLL_SECONDS)
        runner.clean_up()
        return was_alive

    @contextmanager
    def _one_command_at_a_time(self) -> Iterator[None]:
        try:
            make_private_folder(self.folder)
            with open(self.folder / "command.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise NodeError(f"The private RabbitMQ node in {self.folder} cannot be used: {error}") from error


def way_to_run() -> Literal["process", "container"]:
    """Return how a new node runs on this computer. Raises RabbitMQNotFound when it cannot run."""
    if container_wanted():
        if engine_has_image():
            return "container"
        raise RabbitMQNotFound
    try:
        find_server()
    except RabbitMQNotFound:
        if os.environ.get(SERVER_VARIABLE) or not engine_has_image():
            raise
        return "container"
    return "process"


def _start_error(words: str) -> str:
    """Return RabbitMQ's message about a failed start; without one, the last lines of its output."""
    _, failed, reason = words.strip().rpartition("BOOT FAILED")
    return "\n".join((failed + reason).splitlines()[-25:]) or "(The node printed nothing.)"


def version_that_answers(port: int) -> str | None:
    """Begin an AMQP connection to 127.0.0.1 and return RabbitMQ's version; None without an answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            with connection.makefile("rb") as answer:
                header = answer.read(7)  # frame type, channel, size
                properties = answer.read(min(int.from_bytes(header[3:7]), 65_536))
    except OSError:
        return None
    version = re.search(rb"\x07versionS\x00\x00\x00.([\w.+~-]+)", properties, re.DOTALL)
    return version[1].decode() if version else None
