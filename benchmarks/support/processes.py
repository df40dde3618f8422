"""Processes that a benchmark starts and always stops."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from broker.errors import FluffleError

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent  # where `fluffle` and `python` are
_STOP_WITHIN = 10.0  # seconds


class BenchmarkFailed(Exception):
    """A process failed; the message names the process and quotes the end of its log."""


def run_program(main: Callable[[], None]) -> NoReturn:
    """Run a benchmark's main function as a program: Ctrl-C and SIGTERM stop what it started; errors end it with 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        main()
    except (BenchmarkFailed, FluffleError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _interrupt(*_: object) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second signal must not leave a process running
    raise KeyboardInterrupt


class Processes:
    """Child processes of one measurement, with their logs in `folder`. Leaving the `with` stops all of them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        # Compiled modules are kept, as they are for any user, whatever the environment here says.
        ours = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
        self._environment = {**os.environ, **ours, **environment}
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            _stop(process)

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program that runs until the end of the `with`, or ends by itself; its output goes to a log."""
        return self._start(command, keep_output=False)

    def start_until(self, command: Sequence[str], line: str, timeout: float) -> subprocess.Popen[str]:
        """Start a program, and return when its log says `line`. Raises BenchmarkFailed when it ends, or is late."""
        process = self.start(command)
        self.wait_for(process, line, timeout)
        return process

    def wait_for(self, process: "subprocess.Popen[str]", line: str, timeout: float) -> str:
        """The log of a program that was started, as soon as it says `line`. Raises BenchmarkFailed as `start_until`."""
        deadline = time.monotonic() + timeout
        log = self._log(self._running.index(process))
        while line not in (said := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkFailed(f"{_name(process.args)} has not said {line!r}\n{self._logs()}")
            time.sleep(0.005)
        return said

    def output_of(self, command: Sequence[str], timeout: float) -> str:
        """Run a program to its end and return what it printed. Raises BenchmarkFailed, after `timeout` seconds too."""
        process = self._start(command, keep_output=True)
        try:
            printed, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkFailed(f"{_name(command)} took more than {timeout:.0f} s\n{self._logs()}") from error
        if process.returncode:
            raise BenchmarkFailed(f"{_name(command)} ended with {process.returncode}\n{self._logs()}")
        return printed

    def _start(self, command: Sequence[str], *, keep_output: bool) -> subprocess.Popen[str]:
        with open(self._log(len(self._running)), "wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if keep_output else log,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C comes to us alone, and we stop them in order
            )
        self._running.append(process)
        return process

    def _log(self, number: int) -> Path:
        return self._folder / f"{number}.log"

    def _logs(self) -> str:
        """Return the end of the log of every process."""
        return "\n".join(
            f"--- {_name(process.args)}\n{self._log(number).read_text(errors='replace')[-2000:]}"
            for number, process in enumerate(self._running)
        )


def _name(command: object) -> str:
    return " ".join(map(str, command)) if isinstance(command, Sequence) else str(command)


def _stop(process: "subprocess.Popen[str]") -> None:
    """Ask the process to end, and end its whole group when it takes too long."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_WITHIN)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
