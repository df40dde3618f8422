"""One coordinator leads, the others stand by: a lease in the database with an epoch that fences the writes."""

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


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
