"""Programs that are kept running."""

import asyncio
import signal
import sys

import psutil
import pytest

from broker.backoff import Backoff
from fluffle.local import supervisor
from fluffle.local.supervisor import Program

WITHIN = 20.0


class Said:
    """What programs print and what becomes of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, name: str, line: str) -> None:
        self.lines.append(f"{name}: {line}")
        self._more.set()

    async def until(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(WITHIN):
            while sum(text in line for line in self.lines) < times:
                self._more.clear()
                await self._more.wait()


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


async def test_a_program_that_ends_is_started_again_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART", Backoff(0.01, 30.0))
    said = Said()
    program = Program("p", python("import os; print(os.environ['X']); exit(3)"), {"X": "here"}, said)
    running = asyncio.create_task(program.run())
    await said.until("here", times=3)
    program.stop()
    await asyncio.wait_for(running, WITHIN)
    assert said.lines[:2] == ["p: here", "p: ended with exit code 3; starting again in 0.01 s"]
    assert said.lines[3] == "p: ended with exit code 3; starting again in 0.02 s"


async def test_a_program_with_wrong_usage_is_not_started_again() -> None:
    said = Said()
    program = Program("p", python("print('Error: --model x'); exit(2)"), {}, said, may_leave=True)
    await asyncio.wait_for(program.run(), WITHIN)
    assert said.lines == [
        "p: Error: --model x",
        "p: will not be restarted. Fix the error above, then run `fluffle up` again",
    ]


async def test_a_stopped_program_ends_in_its_own_time_and_is_not_started_again() -> None:
    said = Said()
    code = "import signal, time\nsignal.signal(15, lambda *_: (print('bye'), exit()))\nprint('up')\ntime.sleep(60)"
    program = Program("p", python(code), {}, said)
    running = asyncio.create_task(program.run())
    await said.until("up")
    program.stop()
    await asyncio.wait_for(running, WITHIN)
    assert said.lines == ["p: up", "p: bye"]


async def test_a_program_that_may_leave_and_ends_well_is_not_started_again() -> None:
    said = Said()
    await asyncio.wait_for(Program("p", python("print('bye')"), {}, said, may_leave=True).run(), WITHIN)
    assert said.lines == ["p: bye", "p: stopped as requested; will not be restarted"]


async def test_a_program_that_may_leave_and_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART", Backoff(0.01, 30.0))
    said = Said()
    program = Program("p", python("exit(1)"), {}, said, may_leave=True)
    running = asyncio.create_task(program.run())
    await said.until("ended with exit code 1", times=2)
    program.stop()
    await asyncio.wait_for(running, WITHIN)


async def test_a_program_that_ignores_sigterm_can_be_killed() -> None:
    said = Said()
    program = Program(
        "p", python("import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"), {}, said
    )
    running = asyncio.create_task(program.run())
    await said.until("up")
    program.stop()
    program.stop(signal.SIGKILL)
    await asyncio.wait_for(running, WITHIN)


async def test_the_output_of_a_program_is_passed_on_line_by_line() -> None:
    said = Said()
    code = "import sys; sys.stdout.buffer.write(b'x' * 300_000 + b'\\n\\xff\\nno end of line')"
    program = Program("p", python(code), {}, said)
    running = asyncio.create_task(program.run())
    await said.until("ended")
    program.stop()
    await asyncio.wait_for(running, WITHIN)
    assert said.lines[:3] == ["p: " + "x" * 300_000, "p: \ufffd", "p: no end of line"]


async def test_a_program_dies_with_the_one_that_runs_it() -> None:
    said = Said()
    program = Program("p", python("import os, time; print(os.getpid()); time.sleep(60)"), {}, said)
    running = asyncio.create_task(program.run())
    await said.until("p: ")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pid = int(said.lines[0].removeprefix("p: "))
    await asyncio.to_thread(psutil.wait_procs, [psutil.Process(pid)] if psutil.pid_exists(pid) else [], WITHIN)
    assert not psutil.pid_exists(pid)
