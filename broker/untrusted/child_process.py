"""What a helper process does: call functions, one after the other, as its parent asks (see helpers).

Started by the parent with a socket as standard input. A request and its answer are JSON with their length in front.
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
MAX_MEMORY_BYTES = 1024 * 1024 * 1024  # of addresses; where the system lets a process bound itself
MAX_FRAMES = 5_000  # of Python's stack: references of a schema that follow one another need some for each


def main() -> None:
    """Answer until the parent closes the socket, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end is the end of this one
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
    """A message with its length in front."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _answer(function: str, arguments: list[Any], seconds: float) -> bytes:
    """What the function returns, or the name and text of its exception, as JSON."""
    module, _, name = function.partition(":")
    try:
        call = getattr(importlib.import_module(module), name)
        # The process times itself, so that it ends even if its parent is killed meanwhile.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            return json.dumps({"value": call(*arguments)}).encode()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except Exception as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)[:1000]}).encode()


def _read(parent: socket.socket) -> bytes | None:
    """The next request; None when there are no more."""
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
