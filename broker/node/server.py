"""A private RabbitMQ node as a `rabbitmq-server` process of the current user."""

import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from broker.errors import NodeError
from broker.node.record import USER, NodeRecord
from broker.node.repair import REPAIR_COMMAND
from broker.secure_files import make_private, write_private

_log = logging.getLogger(__name__)

SERVER_VARIABLE = "FLUFFLE_RABBITMQ_SERVER"

# The wrapper that Debian and Red Hat put on PATH changes to the user `rabbitmq`; the real script comes first.
_USUAL_PLACES = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/homebrew/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
    "/home/linuxbrew/.linuxbrew/sbin/rabbitmq-server",
)

# Limits for a computer with other work. Each has the same meaning from RabbitMQ 3.10 to 4.x.
LIMITS = """\
vm_memory_high_watermark.relative = 0.25
disk_free_limit.absolute = 100MB
raft.wal_max_size_bytes = 67108864
log.file.level = info
log.file.rotation.size = 10485760
log.file.rotation.count = 3
# Every status check is a short connection, which needs no line in the log.
log.connection.level = error
"""


class RabbitMQNotFound(NodeError):
    """RabbitMQ was not found on this computer. `fluffle broker start --install` installs it."""


def find_server() -> Path:
    """Find the `rabbitmq-server` script: FLUFFLE_RABBITMQ_SERVER, else the usual places, else PATH.

    Raises RabbitMQNotFound.
    """
    if named := os.environ.get(SERVER_VARIABLE):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise RabbitMQNotFound(f"{SERVER_VARIABLE} is {named}, which is not a program")
    for place in (*_USUAL_PLACES, shutil.which("rabbitmq-server")):
        if place and os.access(place, os.X_OK):
            return Path(place)
    raise RabbitMQNotFound


class ServerProcess:
    """The node's process. It holds an exclusive lock on `<folder>/alive.lock` as long as it lives.

    The process inherits the lock. Unlike a process id, the lock cannot belong to another process, and it ends with a
    kill or a power failure.
    """

    def __init__(self, folder: Path, record: NodeRecord) -> None:
        self._folder = folder
        self._record = record
        self._alive_lock = folder / "alive.lock"
        self._group_file = folder / "process-group"
        self._pid_file = folder / "rabbitmq.pid"
        self._console = folder / "log" / "console.log"

    @property
    def log_place(self) -> str:
        """The place of the node's logs, for messages."""
        return str(self._console.parent)

    def launch(self) -> None:
        """Start the process, detached from this one; returns before it is ready. Raises RabbitMQNotFound."""
        server = find_server()
        self._console.parent.mkdir(exist_ok=True, mode=0o700)
        make_private(self._console, create=True)
        if self._pid_file.exists():  # RabbitMQ removes the file at a clean end
            self._repair()
        write_private(self._folder / "rabbitmq.conf", self._configuration())
        write_private(self._folder / "enabled_plugins", "[].\n")
        # Erlang would derive the cookie from the clock, and who knows the cookie can run code in the node.
        write_private(self._folder / ".erlang.cookie", secrets.token_hex(20))
        with open(self._console, "wb") as console, open(self._alive_lock, "wb") as alive_lock:
            fcntl.flock(alive_lock, fcntl.LOCK_EX)
            subprocess.run(  # noqa: S603 - RabbitMQ's own script, found by locate
                # The shell ends at once, so that the node has no parent here and leaves no zombie.
                ["/bin/sh", "-c", 'umask 077; echo $$ >"$1"; "$0" -noinput &', server, self._group_file],
                env=self._environment(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                pass_fds=(alive_lock.fileno(),),
                check=True,
            )

    def alive(self) -> bool:
        """Whether the process exists."""
        try:
            with open(self._alive_lock, "rb") as alive_lock:
                fcntl.flock(alive_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def pid(self) -> int | None:
        """Return the process id; None shortly after the start."""
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def since(self) -> datetime | None:
        """Return the start time in UTC."""
        try:
            return datetime.fromtimestamp(self._pid_file.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def control(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `rabbitmqctl` on the node, with `given` on its standard input."""
        return subprocess.run(  # noqa: S603 - RabbitMQ's own script, found by locate
            [find_server().with_name("rabbitmqctl"), *arguments],
            env=self._environment(),
            cwd=self._folder,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def terminate(self) -> None:
        """Ask the node to shut down cleanly."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the node."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.alive():  # then no other process group has this number
            with suppress(ProcessLookupError):
                os.killpg(int(self._group_file.read_text()), number)

    def clean_up(self) -> None:
        """End Erlang's port mapper, which the node starts and does not stop."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self._record.epmd_port), timeout=1) as epmd:
                    epmd.sendall(b"\x00\x01k")  # KILL_REQ; refused while a node is registered
                    epmd.recv(2)
            except ConnectionRefusedError:
                return
            except OSError:
                pass
            time.sleep(0.02)

    def _repair(self) -> None:
        repaired = subprocess.run(  # noqa: S603 - RabbitMQ's own script, found by locate
            REPAIR_COMMAND,
            env=self._environment(),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if repaired.returncode:
            _log.warning("the data of the killed node could not be checked: %s", repaired.stderr or repaired.stdout)
        self._pid_file.unlink()

    def last_words(self) -> str:
        """Return the node's output during its start."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def _configuration(self) -> str:
        return f"listeners.tcp.local = 127.0.0.1:{self._record.amqp_port}\n{LIMITS}"

    def _environment(self) -> dict[str, str]:
        """Return this process's environment with the node's variables for RabbitMQ and Erlang instead of all others."""
        folder = self._folder
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_")) and name != "NOTIFY_SOCKET"
        }
        return inherited | {
            "HOME": str(folder),  # the folder of the Erlang cookie
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            "RABBITMQ_NODENAME": f"{self._record.name}@localhost",
            "RABBITMQ_DEFAULT_USER": USER,
            "RABBITMQ_DEFAULT_PASS": self._record.password,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            # RabbitMQ reads these three files from /etc/rabbitmq unless other names are set, which need not exist.
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "log" / "rabbitmq.log"),
            "RABBITMQ_PID_FILE": str(self._pid_file),
            "RABBITMQ_DIST_PORT": str(self._record.distribution_port),
            # Erlang would occupy all processors, which other programs need: its schedulers spin while they wait for
            # work, and idle ones take work from others, which makes the work more expensive.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none +SP 50:50"
            ),
            # With this, the script replaces itself by the Erlang machine and does not supervise it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._record.epmd_port),
        }
