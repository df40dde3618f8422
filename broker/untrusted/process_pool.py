"""Call functions on untrusted input in child processes, which can be killed.

A regular expression, a template or a Markdown text may run without end, or take all memory. A child process calls a
function for its parent, which kills it when the call takes too long. It starts with the first call and runs until its
parent ends. It is a new interpreter and not a fork, because a fork of a process with threads may hang.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from broker.errors import HelperFailed, HelperTimeout
from broker.untrusted.child_process import HEADER_BYTES, framed

WALL_FACTOR = 10
"""The parent kills a call after this multiple of its CPU seconds, for busy machines."""

_START = "import sys; sys.path.append(sys.argv[1]); from broker.untrusted.child_process import main; main()"
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class ProcessPool:
    """Up to `most` child processes for one event loop. Further calls wait in order."""

    def __init__(self, most: int = 2, *, folder: str = "/") -> None:
        """`folder` is the working directory of the processes."""
        self._most = most
        self._folder = folder
        self._idle: list[_ChildProcess] = []
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def call(self, function: str, *arguments: Any, seconds: float) -> Any:
        """Call a function of Fluffle, `package.module:name`, with JSON values. Returns its JSON value.

        `seconds` limits the CPU time, without the wait for a free process. Raises HelperTimeout, and HelperFailed for
        an exception in the function or the death of the process. A cancelled call kills its process.
        """
        request = framed(json.dumps([function, arguments, seconds]).encode())
        while self._busy >= self._most:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._next()
                raise
        self._busy += 1
        helper = self._idle.pop() if self._idle else None
        try:
            if helper is None or not helper.is_alive:
                helper = _ChildProcess(self._folder)
            answer = await helper.call(request, seconds)
            self._idle.append(helper)
        finally:
            self._busy -= 1
            self._next()
        if "error" in answer:
            raise HelperFailed(f"{answer['error']}: {answer['message']}")
        return answer["value"]

    def close(self) -> None:
        """End the idle processes."""
        for helper in self._idle:
            helper.end()
        self._idle.clear()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class _ChildProcess:
    """A child process."""

    def __init__(self, folder: str) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this program's own interpreter and module
                [sys.executable, "-I", "-c", _START, str(Path(__file__).parents[2])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd=folder,
            )
        self._socket.setblocking(False)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def call(self, request: bytes, seconds: float) -> Any:
        """Send a request and return the answer. Without an answer, the process is killed."""
        answer = None
        try:
            async with asyncio.timeout(seconds * WALL_FACTOR):
                answer = await self._exchange(request)
        except TimeoutError as error:
            raise HelperTimeout(seconds) from error
        except (ConnectionError, EOFError) as error:
            code = await asyncio.to_thread(self._process.wait)
            if code == -signal.SIGPROF:
                raise HelperTimeout(seconds) from error
            raise HelperFailed(f"the helper process ended with {code}") from error
        finally:
            if answer is None:
                self.end()
        return json.loads(answer)

    async def _exchange(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, request)
        length = int.from_bytes(await self._read(HEADER_BYTES), "big")
        return await self._read(length)

    async def _read(self, count: int) -> bytes:
        loop, read = asyncio.get_running_loop(), bytearray()
        while len(read) < count:
            piece = await loop.sock_recv(self._socket, min(count - len(read), 1 << 20))
            if not piece:
                raise EOFError
            read += piece
        return bytes(read)

    def end(self) -> None:
        """Kill the process."""
        self._socket.close()
        self._process.kill()
        threading.Thread(target=self._process.wait, daemon=True).start()  # the release of its memory may take a while
