"""One coordinator leads, the others stand by: a lease in the database with an epoch that fences the writes."""

import os
import socket
from pathlib import Path
from typing import NamedTuple

from broker.timestamps import Instant, Micros

OTHER_BOOKS = (
    "RabbitMQ at {where} has a coordinator already, and it keeps other books than {database}. One RabbitMQ (or virtual "
    "host) has one database: stop the other coordinator, or give this one the same FLUFFLE_DATABASE_URL. A SQLite file "
    "serves coordinators of one machine; for several machines, use PostgreSQL."
)

_PROC = Path("/proc")


class Lease(NamedTuple):
    """The lead as the database tells it. `expires_at` is by the clock of its holder, and later with every commit."""

    holder: str
    epoch: int
    expires_at: Instant


class Watch:
    """Judges another coordinator's lease: one that nobody extends for as long as it lasts has run out.

    Only times of one's own clock are compared, so that a wrong clock of one machine takes nobody's lead.
    """

    def __init__(self, lease: Micros) -> None:
        self._lease = lease
        self._seen: Lease | None = None
        self._since = Micros(0)

    def has_run_out(self, seen: Lease, at: Micros) -> bool:
        """Whether the lease that was read `at` a moment of a steady clock is nobody's any more."""
        if seen != self._seen:
            self._seen, self._since = seen, at
        return is_gone(seen.holder) or at - self._since >= self._lease


def may_be_a_copy(lease: Lease | None, *, shared: bool) -> bool:
    """Whether a lease says nothing about who leads on this RabbitMQ: nobody's, or in a file from another machine.

    `shared` tells whether coordinators of several machines can use the database.
    """
    return lease is None or not (shared or lease.holder.startswith(f"{socket.gethostname()}:"))


def holder() -> str:
    """Who this process is, as the lease names it: host, process id and when the process started."""
    return _identity(os.getpid())


def _identity(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_started(pid)}"


def _started(pid: int) -> str:
    """Clock ticks since boot when the process started, so that a later process with the same id differs."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(name: str) -> bool:
    """Whether that holder ran on this machine and certainly does no longer: its lease need not be waited for."""
    host, _, rest = name.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started
