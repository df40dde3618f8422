"""`fluffle` commands as separate processes: started, watched, killed, and never left running.

with fluffle("coordinator", url=url, state=folder, until="ready") as coordinator:
    coordinator.kill()
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

import psutil

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("fluffle")

_LINES_SHOWN = 60
_END_WITHIN = 5.0  # seconds


class Process:
    """A running command and its output, standard output and standard error together."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self._popen = popen
        self._log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """Return its output so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, *, within: float = 30) -> None:
        """Wait until it has printed `text`. Fails when it ends before, or after `within` seconds."""
        until(lambda: text in self.output or not self.alive, f"{self.name} prints {text!r}", within=within)
        assert text in self.output, f"{self.name} ended with {self._popen.returncode}:\n{self.output}"

    def kill(self) -> None:
        """End the process with `kill -9`."""
        self._popen.kill()
        self._popen.wait()

    def suspend(self) -> None:
        """Suspend the process; it keeps its connections."""
        self._popen.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    @property
    def is_suspended(self) -> bool:
        """Return whether the process is suspended, by `suspend` or by itself at a named point."""
        return self.alive and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def resume(self) -> None:
        """Resume the process."""
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def wait(self, *, within: float = 30) -> int:
        """Wait for its end and return the exit code, -9 after a kill."""
        return self._popen.wait(within)

    def end(self) -> None:
        """End the process and its children, by SIGKILL if necessary."""
        if self.alive:
            self.resume()
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(_END_WITHIN)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its parent has not reaped it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def helpers_of(process: Process) -> list[psutil.Process]:
    """Return the running helper processes, which apply schemas and render texts. Any of them may end at any time."""
    helpers = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie, too
            if "child_process" in " ".join(child.cmdline()):
                helpers.append(child)
    return helpers


@contextmanager
def with_children(process: Process) -> Iterator[None]:
    """End the process and its children at the end of the block: `fluffle up` gives each program a session."""
    try:
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.alive else []
        process.end()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


@contextmanager
def fluffle(
    *args: str,
    url: str,
    state: Path,
    until: str | None = None,
    env: Mapping[str, str] | None = None,
    altered: Sequence[str] = (),
    version: Path | None = None,
    inside: Sequence[str] = (),
) -> Iterator[Process]:
    """Run `fluffle ARGS` on the broker at `url`, with its state folder, until the end of the block.

    `until` is the text that it prints when ready; `altered` names changes of its code, see
    tests/support/altered_program.py; `version` is a folder with the modules of another version; `inside` is a prefix of
    the command, see tests/support/network_hosts.py. Its last lines are printed at the end.
    """
    command = [sys.executable, "-m", "tests.support.altered_program", *altered, "--"] if altered else [COMMAND]
    if version is not None:
        command = [sys.executable, "-m", "fluffle"]
    name = " ".join(("fluffle", *args))
    state.mkdir(parents=True, exist_ok=True)
    descriptor, log = mkstemp(prefix=f"{'-'.join(args[:2])}-", suffix=".log", dir=state)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLUFFLE_")}
    with os.fdopen(descriptor, "wb") as out:
        popen = subprocess.Popen(
            [*inside, *command, *args],
            cwd=version or ROOT,
            env={**inherited, "FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(state), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process = Process(name, popen, Path(log))
    try:
        if until is not None:
            process.wait_for(until)
        yield process
    finally:
        process.end()
        print(f"-- {name} (process {process.pid}, exit code {popen.returncode}), the end of what it printed:")
        print(*process.output.splitlines()[-_LINES_SHOWN:], sep="\n")


def until(condition: Callable[[], object], what: str, *, within: float = 30) -> None:
    """Wait until the condition is true. Fails after `within` seconds; the error names `what` was expected."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within:g} s in vain: {what}"
        time.sleep(0.02)
