"""`fluffle` commands as processes of their own: started, watched, killed, and never left behind.

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
    """A running command and what it prints, standard output and standard error together."""

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
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, *, within: float = 30) -> None:
        """Wait until it has printed `text`. Fails when it ends before, or after `within` seconds."""
        until(lambda: text in self.output or not self.alive, f"{self.name} prints {text!r}", within=within)
        assert text in self.output, f"{self.name} ended with {self._popen.returncode}:\n{self.output}"

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._popen.kill()
        self._popen.wait()

    def suspend(self) -> None:
        """Stop it in its tracks; it keeps its connections."""
        self._popen.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    @property
    def is_suspended(self) -> bool:
        """Whether it stands still: `suspend`, or it has come to a point where it does so of itself."""
        return self.alive and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def resume(self) -> None:
        """Let it go on."""
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM."""
        self._popen.terminate()

    def wait(self, *, within: float = 30) -> int:
        """Wait for its end and return its exit code, -9 after a kill."""
        return self._popen.wait(within)

    def end(self) -> None:
        """End it, and what it has started, one way or the other."""
        if self.alive:
            self.resume()
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(_END_WITHIN)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though its parent may not have noticed yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def helpers_of(process: Process) -> list[psutil.Process]:
    """The running processes in which it applies schemas and renders texts. Any of them may end at any moment."""
    helpers = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie, too
            if "child_process" in " ".join(child.cmdline()):
                helpers.append(child)
    return helpers


@contextmanager
def with_children(process: Process) -> Iterator[None]:
    """End the process and what it has started at the end of the block: `fluffle up` gives each program its session."""
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

    `until` is what it prints when it is ready; `altered` names what is to be other than usual, see
    tests/support/altered_program.py; `version` is a folder with the modules of another version; `inside` comes before
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
    """Wait until the condition is true. Fails after `within` seconds, saying `what` was waited for."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within:g} s in vain: {what}"
        time.sleep(0.02)
