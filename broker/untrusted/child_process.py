"""The main program of a child process of process_pool.py: call functions for the parent, one after the other.

The standard input is a socket to the parent. A request and its answer are JSON after their length.
"""

import importlib
import json
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

HEADER_BYTES = 4
MAX_MEMORY_BYTES = 1024 * 1024 * 1024  # of address space, where the system supports the limit
MAX_FRAMES = 5_000  # of Python's stack: each reference in a chain of a schema needs some


def main() -> None:
    """Answer requests until the parent closes the socket or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, whose end ends this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    sys.setrecursionlimit(MAX_FRAMES)
    with socket.socket(fileno=0) as parent:
        while (request := _read(parent)) is not None:
            answer = _answer(*json.loads(request))
            with suppress(BrokenPipeError, ConnectionResetError):
                parent.sendall(framed(answer))


def framed(body: bytes) -> bytes:
    """Return a message after its length."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _answer(function: str, arguments: list[Any], seconds: float) -> bytes:
    """Call a function. Returns its value, or the name and text of its exception, as JSON."""
    module, _, name = function.partition(":")
    try:
        call = getattr(importlib.import_module(module), name)
        # The process limits itself, so that it ends even if its parent is killed.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return json.dumps({"value": call(*arguments)}).encode()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except Exception as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)[:1000]}).encode()


def _read(parent: socket.socket) -> bytes | None:
    """Read the next request; None at the end."""
    header = _read_bytes(parent, HEADER_BYTES)
    return None if header is None else _read_bytes(parent, int.from_bytes(header, "big"))


def _read_bytes(parent: socket.socket, count: int) -> bytes | None:
    read = bytearray()
    while len(read) < count:
        with suppress(ConnectionResetError):
            if piece := parent.recv(min(count - len(read), 1 << 20)):
                read += piece
                continue
        return None
    return bytes(read)
