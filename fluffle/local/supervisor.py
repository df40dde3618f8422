"""Programs that are kept running: their lines printed with their names, started again when they end."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

PAUSE_FIRST, PAUSE_MOST = 1.0, 30.0  # seconds before a program that ended is started again
_WRONG_USAGE = 2  # exit code
_STEADY = 60.0  # seconds after which a program counts as running well


class Program:
    """A program that `run` keeps running until `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        say: Callable[[str, str], None],
        *,
        may_leave: bool = False,
    ) -> None:
        """`say(name, line)` is called with every line that it prints and with what becomes of it.

        One that `may_leave` is not started again after exit code 0: somebody has told it to end. Nor after exit code
        2, wrong usage: it would end in the same way again.
        """
        self.name = name
        self._may_leave = may_leave
        self._command = command
        self._environment = environment
        self._say = say
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start it, again whenever it ends, until it has left or is stopped and has ended."""
        pause = PAUSE_FIRST
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if self._may_leave and code == 0:
                self._say(self.name, "was told to leave; it is not started again")
                return
            if self._may_leave and code == _WRONG_USAGE:
                self._say(self.name, "is not started again: mend that first, and begin anew")
                return
            if time.monotonic() - began > _STEADY:
                pause = PAUSE_FIRST
            self._say(self.name, f"ended with {_in_words(code)}; starting again in {pause:g} s")
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pause = min(pause * 2, PAUSE_MOST)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Send it a signal to end; it is not started again."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signum)

    async def _run_once(self) -> int:
        # Its own session: Ctrl-C in the terminal reaches us alone, and we decide who ends in which order.
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            if self._stopping.is_set():
                process.terminate()
            async for line in _lines(process.stdout):
                self._say(self.name, line)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a stream, however long they are."""
    rest = b""
    while chunk := await stream.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip()
    if rest:
        yield rest.decode(errors="replace").rstrip()


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
