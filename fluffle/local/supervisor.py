"""A supervised program: its output is passed on line by line, and it is started again when it ends."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

from broker.backoff import Backoff

RESTART = Backoff(initial=1.0, maximum=30.0)  # before a program that ended is started again
_USAGE_EXIT_CODE = 2
_STEADY_SECONDS = 60.0  # a program that ran longer starts again with the first pause


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
        """Describe a program; `run` or `run_once` starts it.

        `say(name, line)` receives every line of its output, and lines about its restarts. A program that `may_leave`
        is not started again after exit code 0 (it was told to end), nor after exit code 2, wrong usage (it would fail
        in the same way again).
        """
        self.name = name
        self._may_leave = may_leave
        self._command = command
        self._environment = environment
        self._say = say
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the program, and start it again whenever it ends, until it may not be started again or is stopped."""
        pauses = RESTART.pauses()
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self.run_once()
            if self._stopping.is_set():
                return
            if self._may_leave and code == 0:
                self._say(self.name, "stopped as requested; will not be restarted")
                return
            if self._may_leave and code == _USAGE_EXIT_CODE:
                self._say(self.name, "will not be restarted. Fix the error above, then run `fluffle up` again")
                return
            if time.monotonic() - began > _STEADY_SECONDS:
                pauses = RESTART.pauses()
            pause = next(pauses)
            self._say(self.name, f"ended with {_in_words(code)}; starting again in {pause:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Send the program a signal to end. It is not started again."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signum)

    async def run_once(self) -> int:
        """Start the program and return its exit code, or minus the number of the signal that ended it."""
        # A separate session: Ctrl-C in the terminal reaches only this process, which decides who ends in which order.
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


def fluffle_command(*arguments: str) -> list[str]:
    """Return the command line that runs this installation of `fluffle`."""
    return [sys.executable, "-m", "fluffle", *arguments]


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield the lines of a stream, of any length."""
    rest = b""
    while chunk := await stream.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip()
    if rest:
        yield rest.decode(errors="replace").rstrip()


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
