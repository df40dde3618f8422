"""A private RabbitMQ node in a container, for computers that have a Docker engine and no RabbitMQ."""

import os
import subprocess
from datetime import datetime
from pathlib import Path

from broker.errors import NodeError
from broker.node.record import USER, NodeRecord
from broker.node.repair import REPAIR_COMMAND
from broker.node.server import LIMITS, SERVER_VARIABLE

IMAGE = "rabbitmq:4-management"


def container_wanted() -> bool:
    """Whether the user asked for a container: FLUFFLE_RABBITMQ_SERVER=docker."""
    return os.environ.get(SERVER_VARIABLE) == "docker"


def engine_answers() -> bool:
    """Whether a Docker engine is available."""
    return _docker("version", "--format", "{{.Server.Version}}").returncode == 0


def engine_has_image() -> bool:
    """Whether a Docker engine is available and has the image."""
    return _docker("image", "inspect", IMAGE).returncode == 0


class Container:
    """The node's container. Its data is in a volume of the same name, which outlives the container."""

    def __init__(self, folder: Path, record: NodeRecord) -> None:
        self._folder = folder
        self._record = record

    @property
    def log_place(self) -> str:
        """The place of the node's logs, for messages."""
        return f"`docker logs {self._record.name}`"

    def launch(self) -> None:
        """Start the container; returns before the node is ready. Raises NodeError when the engine refuses."""
        name = self._record.name
        self.clean_up()
        data = f"{name}:/var/lib/rabbitmq"
        _docker("run", "--rm", "--volume", data, "--workdir", "/var/lib/rabbitmq", IMAGE, *REPAIR_COMMAND)
        limits = self._folder / "limits.conf"
        limits.write_text(LIMITS)
        limits.chmod(0o644)  # read by the container's own user; it holds no secret
        started = _docker(
            *("run", "--detach", "--name", name, "--hostname", name),
            *("--publish", f"127.0.0.1:{self._record.amqp_port}:5672"),
            *("--volume", data),
            *("--volume", f"{limits}:/etc/rabbitmq/conf.d/90-fluffle.conf:ro"),
            *("--env", f"RABBITMQ_NODENAME={name}@localhost"),
            *("--env", f"RABBITMQ_DEFAULT_USER={USER}"),
            *("--env", "RABBITMQ_DEFAULT_PASS"),  # from the environment: every user can read a command line
            IMAGE,
            RABBITMQ_DEFAULT_PASS=self._record.password,
        )
        if started.returncode:
            raise NodeError(f"The container of the private RabbitMQ node did not start: {started.stderr.strip()}")

    def alive(self) -> bool:
        """Whether the container runs."""
        return self._inspect("{{.State.Running}}") == "true"

    def pid(self) -> int | None:
        """Return the host's process id of the container's first process."""
        return int(self._inspect("{{.State.Pid}}") or 0) or None

    def since(self) -> datetime | None:
        """Return the start time in UTC."""
        started = self._inspect("{{.State.StartedAt}}")
        return datetime.fromisoformat(started) if started else None

    def control(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `rabbitmqctl` in the container, with `given` on its standard input."""
        return _docker("exec", "--interactive", self._record.name, "rabbitmqctl", *arguments, given=given)

    def terminate(self) -> None:
        """Ask the node to shut down cleanly."""
        _docker("kill", "--signal", "TERM", self._record.name)

    def kill(self) -> None:
        """Kill the node."""
        _docker("kill", self._record.name)

    def clean_up(self) -> None:
        """Remove the container, but not its data."""
        _docker("rm", "--force", self._record.name)

    def last_words(self) -> str:
        """Return the end of the container's output."""
        logs = _docker("logs", "--tail", "50", self._record.name)
        return logs.stdout + logs.stderr

    def _inspect(self, template: str) -> str:
        return _docker("inspect", "--type", "container", "--format", template, self._record.name).stdout.strip()


def _docker(*arguments: str, given: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(  # noqa: S603 - no shell; the arguments are ours
            ["docker", *arguments],  # noqa: S607 - the user's docker, wherever it is installed
            env=os.environ | environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "docker was not found")
