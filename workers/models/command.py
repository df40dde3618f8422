"""A command as an LLM: the prompt on its standard input, the answer on its standard output."""

import asyncio
import codecs
import logging
import os
import shlex
import shutil
import signal
from collections.abc import Collection, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from subprocess import PIPE

from broker.errors import ConfigurationError
from broker.settings import PREFIX
from workers.models.base import DISK_FULL, Answer, Job, ModelError, TextCallback, is_disk_full
from workers.models.output import check_schema, parse_output
from workers.models.prompt import render_prompt
from workers.models.terminal_text import TerminalFilter, terminal_text
from workers.tools.socket import folder_for_sockets, tool_socket
from workers.tools.toolbox import Toolbox

MAX_OUTPUT = 1_000_000
"""Bytes of standard output that are accepted as an answer."""

NOT_EXECUTED = (126, 127)
"""The exit codes of a shell, `env` and others for a program that cannot be executed, or does not exist."""

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_log = logging.getLogger(__name__)

BASIC_VARIABLES = frozenset(("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "LANG"))
"""Variables that every command gets, besides those that begin with LC_. Most programs need them."""

_TAIL = 1500
_POLL = 0.02


class CommandLLM:
    """Runs a command once per job, without a shell, in a separate session and process group.

    The command gets the instructions and the prompt on standard input as UTF-8. Its environment is that of the worker
    without the settings of Fluffle, some of which are secret; with `env`, only BASIC_VARIABLES and the named ones. For
    a task, FLUFFLE_TASK_ID, FLUFFLE_ATTEMPT and, for `fluffle tool`, FLUFFLE_TOOLS are added; for a message,
    FLUFFLE_MESSAGE_ID and FLUFFLE_CONVERSATION_ID.

    With exit code 0, standard output is the answer: the result of `terminal_text` without trailing newlines, or JSON
    if the task has an output schema. Any other code is a retryable failure: `command_not_started` for NOT_EXECUTED.
    When the command ends or is stopped, the other processes of its group get SIGTERM and, GRACE seconds later, SIGKILL.
    """

    def __init__(self, command: str, *, env: Collection[str] | None = None) -> None:
        """`env` names the variables of the worker that the command gets; None: all except those of Fluffle.

        Raises ConfigurationError for a wrong command line, a missing program, and a variable of Fluffle in `env`.
        """
        if own := sorted(name for name in env or () if name.startswith(PREFIX)):
            raise ConfigurationError(f"--env: a command never gets Fluffle's own variables: {', '.join(own)}")
        self._env = env
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--exec: cannot read the command line ({error}): {command}") from error
        if not self._argv:
            raise ConfigurationError("--exec: the command line is empty")
        if shutil.which(self._argv[0]) is None:
            raise ConfigurationError(f"--exec: no such program, or it may not be executed: {self._argv[0]}")
        self._name = Path(self._argv[0]).name
        if folder_for_sockets() is None:
            _log.warning("%s cannot use `fluffle tool`: set TMPDIR to a folder with a short path", self._name)

    @property
    def model(self) -> str:
        """`exec:` and the program, without its arguments, which can contain a secret."""
        return f"exec:{self._name}"

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Run the command, and return its answer.

        Raises ModelError `command_failed`, `command_not_started`, `disk_full`, `output_too_large`, `output_encoding`,
        `output_schema` or `not_json`.
        """
        check_schema(job.output_schema)
        async with tool_socket(toolbox) if toolbox and toolbox.tools else nullcontext() as tools:
            output = await self._output_of(job, progress, tools)
        try:
            text = output.decode()
        except UnicodeDecodeError as error:
            message = f"{self._name} wrote bytes that are not UTF-8: {error}"
            raise ModelError("output_encoding", message, retryable=False) from error
        return Answer(await parse_output(terminal_text(text).rstrip("\n"), job.output_schema))

    async def _output_of(self, job: Job, progress: TextCallback, tools: Path | None) -> bytes:
        running, transport = await self._start(job, progress, tools)
        try:
            stdin = transport.get_pipe_transport(0)
            assert isinstance(stdin, asyncio.WriteTransport)
            stdin.write(_prompt(job).encode())
            stdin.write_eof()
            await running.ended
        finally:
            try:
                await _end_group(transport.get_pid())
                # A process that has left the group can keep the pipes open without limit.
                await asyncio.wait([running.closed], timeout=GRACE)
            finally:
                transport.close()
        if running.too_large:
            message = f"{self._name} wrote more than {MAX_OUTPUT:,} bytes"
            raise ModelError("output_too_large", message, retryable=False)
        if code := transport.get_returncode():
            kind = "command_not_started" if code in NOT_EXECUTED else "command_failed"
            raise ModelError(kind, self._failure(code, running), retryable=True)
        return bytes(running.stdout)

    async def _start(
        self, job: Job, progress: TextCallback, tools: Path | None
    ) -> "tuple[_Running, asyncio.SubprocessTransport]":
        environment = environment_of_command(os.environ, self._env) | _identity(job)
        if tools is not None:
            environment["FLUFFLE_TOOLS"] = str(tools)
        try:
            transport, running = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Running(progress),
                *self._argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            kind = DISK_FULL if is_disk_full(error) else "command_not_started"
            raise ModelError(kind, f"{self._name} does not start: {error}", retryable=True) from error
        return running, transport

    def _failure(self, code: int, running: "_Running") -> str:
        how = f"exited with code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        said = terminal_text(bytes(running.stderr_tail or running.stdout[-_TAIL:]).decode(errors="replace")).strip()
        return f"{self._name} {how}: {said}" if said else f"{self._name} {how}"


class _Running(asyncio.SubprocessProtocol):
    """Collects the output of the command.

    `ended` is set when the command exits or writes too much, `closed` when no process can write any more. (The
    streams of asyncio offer only the latter, which a child process that the command leaves behind can delay for ever.)
    """

    def __init__(self, progress: TextCallback) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.stdout = bytearray()
        self.stderr_tail = b""
        self.too_large = False
        self._progress = progress
        self._plain = TerminalFilter()
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr_tail = (self.stderr_tail + data)[-_TAIL:]
        elif len(self.stdout) + len(data) > MAX_OUTPUT:
            self.too_large = True
            self._set(self.ended)
        elif not self.too_large:
            self.stdout += data
            if text := self._plain.feed(self._decode(data)):
                self._progress(text)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and (rest := self._plain.close()):
            self._progress(rest)

    def process_exited(self) -> None:
        self._set(self.ended)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set(self.closed)

    @staticmethod
    def _set(happened: asyncio.Future[None]) -> None:
        if not happened.done():
            happened.set_result(None)


def environment_of_command(environment: Mapping[str, str], names: Collection[str] | None) -> dict[str, str]:
    """Return the variables of the worker that its command gets: the basic ones and those in `names`; None: all.

    The variables of Fluffle are excluded: they contain passwords, or names of files with passwords.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(PREFIX)
        and (names is None or name in names or name in BASIC_VARIABLES or name.startswith("LC_"))
    }


def _identity(job: Job) -> dict[str, str]:
    """Return the variables that name the job."""
    if job.message is not None:
        return {"FLUFFLE_MESSAGE_ID": job.message.id, "FLUFFLE_CONVERSATION_ID": job.message.conversation_id}
    return {"FLUFFLE_TASK_ID": job.task_id, "FLUFFLE_ATTEMPT": str(job.attempt)}


def _prompt(job: Job) -> str:
    return "\n\n".join(filter(None, [job.instructions, render_prompt(job)]))


async def _end_group(group: int) -> None:
    """Stop every process in the group; return at once when there is none."""
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: only zombies left, on macOS
        os.killpg(group, signal.SIGTERM)
        try:
            for _ in range(round(GRACE / _POLL)):
                await asyncio.sleep(_POLL)
                os.killpg(group, 0)
        finally:
            os.killpg(group, signal.SIGKILL)
