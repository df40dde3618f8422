"""Leadership: a lease in the database, with an epoch that keeps a former leader from writing."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

from broker.timestamps import Instant, Micros

OTHER_DATABASE = (
    "RabbitMQ at {where} already has a coordinator, and it uses a different database: this one uses {database}. One "
    "RabbitMQ (or virtual host) has one database: stop the other coordinator, or give this one the same "
    "FLUFFLE_DATABASE_URL. A SQLite file serves coordinators of one machine; for several machines, use PostgreSQL."
)

_PROC = Path("/proc")


class Lease(NamedTuple):
    """The stored lease. `expires_at` is by its holder's clock, and every commit of the holder extends it."""

    holder: str
    epoch: int
    expires_at: Instant


class Watch:
    """Decides when another coordinator's lease has expired: when it has not changed for as long as it lasts.

    Compares only times of this process's own clock, so that a wrong clock on one machine cannot end a lease.
    """

    def __init__(self, lease: Micros) -> None:
        self._lease = lease
        self._seen: Lease | None = None
        self._since = Micros(0)

    def has_run_out(self, seen: Lease, at: Micros) -> bool:
        """Return whether the lease `seen` has expired. `at`: when it was read, by a monotonic clock."""
        if seen != self._seen:
            self._seen, self._since = seen, at
        return is_gone(seen.holder) or at - self._since >= self._lease


def may_be_a_copy(lease: Lease | None, *, shared: bool) -> bool:
    """Return whether a lease says nothing about the leader on this RabbitMQ: none, or one from another machine's file.

    `shared`: whether coordinators on several machines can use the database.
    """
    return lease is None or not (shared or lease.holder.startswith(f"{socket.gethostname()}:"))


def holder() -> str:
    """Return the name of this process in a lease: host, process id and start time of the process."""
    return _identity(os.getpid())


def _identity(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """Return the start time in clock ticks since boot, which tells processes with the same id apart; "" if unknown."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(name: str) -> bool:
    """Return whether the holder ran on this machine and has ended for certain: its lease is over at once."""
    host, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started
