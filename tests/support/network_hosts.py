"""Hosts with separate networks that can be cut off: network namespaces, each connected to a bridge on this machine.

Only root may create them; `why_not` returns why there are none.
"""

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache


class Host:
    """A host that reaches only this machine, at `gateway`."""

    def __init__(self, name: str, cable: str, gateway: str) -> None:
        self.gateway = gateway
        self._name = name
        self._cable = cable

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return the prefix of a command that runs on the host, with the same process id."""
        return ("ip", "netns", "exec", self._name)

    def cut(self) -> None:
        """Cut the network: traffic of the host is dropped without an error on either side."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Restore the network."""
        _ip("link", "set", self._cable, "up")


@cache
def why_not() -> str:
    """Return why hosts cannot be created here, or an empty text."""
    probe = f"fl{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "delete", probe)
    except (OSError, AssertionError) as error:
        return f"network namespaces cannot be made here: {error}"
    return ""


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Create this many hosts in one subnet; remove them and their processes at the end."""
    switch = f"fl{secrets.token_hex(3)}"
    subnet = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}"
    gateway = f"{subnet}.1"
    with ExitStack() as stack:
        _ip("link", "add", switch, "type", "bridge")
        stack.callback(_ip, "link", "delete", switch)
        _ip("address", "add", f"{gateway}/24", "dev", switch)
        _ip("link", "set", switch, "up")
        found = []
        for number in range(count):
            name, cable = f"{switch}-{number}", f"{switch}c{number}"
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", cable, "master", switch, "up")
            _ip("address", "add", f"{subnet}.{number + 2}/24", "dev", "eth0", inside=name)
            for device in ("lo", "eth0"):
                _ip("link", "set", device, "up", inside=name)
            found.append(Host(name, cable, gateway))
        yield found


def _ip(*arguments: str, inside: str | None = None) -> None:
    command: Sequence[str] = ("ip", *(() if inside is None else ("-netns", inside)), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
