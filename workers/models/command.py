"""A command line agent as an LLM: the prompt on its standard input, the answer on its standard output."""

import asyncio
import codecs
import os
import shlex
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

from broker.errors import ConfigurationError
from workers.models.base import Answer, Job, ModelError, Progress
from workers.models.output import check_schema, parse_output
from workers.models.prompt import render_prompt

MAX_OUTPUT = 1_000_000
"""Bytes of standard output that are taken as an answer."""

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_TAIL = 1500


class CommandLLM:
    """Runs a command once per job, without a shell, in a session and process group of its own.

    It gets the instructions and the prompt on standard input as UTF-8, and the worker's environment with
    FLUFFLE_TASK_ID and FLUFFLE_ATTEMPT added. Exit code 0 means that standard output is the answer: text
    without its last newline, or JSON where the task has an output schema. Any other code is a failure that
    another attempt may mend. When the command ends or is stopped, whatever it left in its process group gets
    SIGTERM and, GRACE seconds later, SIGKILL.
    """

    def __init__(self, command: str, instructions: str | None = None) -> None:
        """Raises ConfigurationError if the command line cannot be split or names no program on this machine."""
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--exec: cannot read the command line ({error}): {command}") from error
        if not self._argv:
            raise ConfigurationError("--exec: the command line is empty")
        if shutil.which(self._argv[0]) is None:
            raise ConfigurationError(f"--exec: no such program, or it may not be executed: {self._argv[0]}")
        self._name = Path(self._argv[0]).name
        self._instructions = instructions

    @property
    def model(self) -> str:
        """`exec:` and the program. Its arguments may hold a secret and stay out of the books."""
        return f"exec:{self._name}"

    async def run(self, job: Job, progress: Progress) -> Answer:
        """The command's answer. Raises ModelError `command_failed`, `output_too_large`, `output_encoding` or
        `output_schema`.
        """
        check_schema(job.output_schema)
        text = await self._output(job, progress)
        return Answer(parse_output(text.rstrip("\r\n"), job.output_schema))

    async def _output(self, job: Job, progress: Progress) -> str:
        prompt = "\n\n".join(filter(None, [job.instructions or self._instructions, render_prompt(job)]))
        environment = {"FLUFFLE_TASK_ID": job.task_id, "FLUFFLE_ATTEMPT": str(job.attempt)}
        try:
            transport, running = await asyncio.get_running_loop().subprocess_exec(
                lambda: _RunningCommand(progress),
                *self._argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=os.environ | environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ModelError("command_failed", f"{self._name}: {error}", retryable=True) from error
        try:
            stdin = transport.get_pipe_transport(0)
            assert isinstance(stdin, asyncio.WriteTransport)
            stdin.write(prompt.encode())
            stdin.write_eof()
            await running.ended
            await _end_group(transport.get_pid())
            with suppress(TimeoutError):  # a process that left the group may still hold the pipes
                await asyncio.wait_for(asyncio.shield(running.closed), GRACE)
        finally:
            try:
                await _end_group(transport.get_pid())
            finally:
                transport.close()
        self._check_exit(transport.get_returncode(), running)
        return running.text

    def _check_exit(self, code: int | None, running: "_RunningCommand") -> None:
        if code == 0:
            return
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"exited with code {code}"
        said = running.stderr_tail.decode(errors="replace").strip() or running.text.strip()
        message = f"{self._name} {how}" + (f": {said[-_TAIL:]}" if said else "")
        raise ModelError("command_failed", message, retryable=True)


class _RunningCommand(asyncio.SubprocessProtocol):
    """Collects what the command writes. `ended`: it exited, or wrote what cannot be an answer. `closed`: nobody
    writes any more.

    (asyncio's ready-made streams cannot tell the two apart: they wait for every child that holds the pipe.)
    """

    def __init__(self, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.text = ""
        self.stderr_tail = b""
        self._received = 0
        self._progress = progress
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr_tail = (self.stderr_tail + data)[-_TAIL:]
        else:
            self._take(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._take(b"", final=True)

    def process_exited(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _take(self, data: bytes, *, final: bool = False) -> None:
        ...


async def _end_group(group: int) -> None:
    """Stops every process of the group, if any is left."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
            async with asyncio.timeout(GRACE):
                while True:
                    os.killpg(group, 0)
                    await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
