"""Calls in child processes, with their limits."""

import asyncio
import os
import subprocess
import sys

import psutil
import pytest

from broker.errors import HelperFailed, HelperTimeout
from broker.untrusted.process_pool import ProcessPool
from tests.support.processes import is_gone, until

REPEAT = "operator:mul"
NOW = "os:getpid"


async def ask(helpers: ProcessPool, function: str = NOW, *arguments: object, seconds: float = 5) -> object:
    return await helpers.call(function, *arguments, seconds=seconds)


async def never_ends(helpers: ProcessPool, seconds: float = 30) -> object:
    """A pattern that Python is not done with before the sun is."""
    return await helpers.call("re:fullmatch", "(a+)+", "a" * 44 + "!", seconds=seconds)


async def test_no_process_is_started_before_the_first_call() -> None:
    before = psutil.Process().children()
    helpers = ProcessPool()
    assert psutil.Process().children() == before
    assert await ask(helpers, REPEAT, "ab", 2) == "abab"
    helpers.close()


async def test_consecutive_calls_share_one_child_process() -> None:
    helpers = ProcessPool()
    first = await ask(helpers)
    assert first == await ask(helpers) != os.getpid()
    helpers.close()
    until(lambda: not psutil.pid_exists(int(str(first))), "the process has ended")


async def test_a_call_that_takes_too_long_is_killed_without_blocking_the_loop() -> None:
    helpers = ProcessPool()
    endless = asyncio.create_task(never_ends(helpers, 0.3))
    assert await ask(helpers, REPEAT, "ab", 2) == "abab"
    assert not endless.done()
    with pytest.raises(HelperTimeout, match=r"it took longer than 0\.3 s"):
        await endless
    assert await ask(helpers, REPEAT, 3, 3) == 9
    helpers.close()


async def test_a_call_that_sleeps_for_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.untrusted.process_pool.WALL_FACTOR", 2)
    helpers = ProcessPool()
    with pytest.raises(HelperTimeout):
        await helpers.call("time:sleep", 60, seconds=0.2)


async def test_a_cancelled_call_kills_its_process_and_frees_its_place() -> None:
    helpers = ProcessPool(1)
    pid = int(str(await ask(helpers)))
    endless = asyncio.create_task(never_ends(helpers))
    waits = asyncio.create_task(ask(helpers, REPEAT, "ab", 2))
    used = psutil.Process(pid).cpu_times().user
    await asyncio.to_thread(until, lambda: psutil.Process(pid).cpu_times().user > used + 0.1, "it is at work")
    endless.cancel()
    assert await waits == "abab"
    until(lambda: not psutil.pid_exists(pid), "the process has ended")
    helpers.close()


async def test_the_number_of_processes_is_limited_and_calls_wait_in_order() -> None:
    helpers = ProcessPool(2)
    pids = await asyncio.gather(*(ask(helpers) for _ in range(20)))
    assert len(set(pids)) <= 2
    helpers.close()


async def test_an_exception_in_the_function_is_reported_and_the_process_stays() -> None:
    helpers = ProcessPool()
    pid = await ask(helpers)
    with pytest.raises(HelperFailed, match="ZeroDivisionError"):
        await ask(helpers, "operator:truediv", 1, 0)
    with pytest.raises(HelperFailed, match="MemoryError"):
        await ask(helpers, REPEAT, "a", 10**10)
    assert await ask(helpers) == pid
    helpers.close()


async def test_a_dead_process_is_reported_and_replaced() -> None:
    helpers = ProcessPool()
    with pytest.raises(HelperFailed, match="the helper process ended with -6"):
        await ask(helpers, "os:abort")
    pid = int(str(await ask(helpers)))
    psutil.Process(pid).kill()
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it is dead")
    assert await ask(helpers) != pid
    helpers.close()


async def test_long_calls_and_answers_are_transferred_completely() -> None:
    helpers = ProcessPool()
    text = "ä\ud800\0" * 300_000
    assert await ask(helpers, REPEAT, text, 1) == text
    helpers.close()


async def test_no_secret_reaches_the_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUFFLE_AMQP_URL", "amqp://secret")
    helpers = ProcessPool()
    assert await ask(helpers, "os:getenv", "FLUFFLE_AMQP_URL") is None
    helpers.close()


def test_a_busy_process_does_not_outlive_its_parent() -> None:
    code = (
        "import asyncio; from broker.untrusted.process_pool import ProcessPool; h = ProcessPool()\n"
        "async def main():\n"
        "    print(await h.call('os:getpid', seconds=1), flush=True)\n"
        "    await h.call('re:fullmatch', '(a+)+', 'a' * 44 + '!', seconds=1)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(lambda: psutil.Process(pid).cpu_times().user > 0.2, "it is at work")
    parent.kill()
    parent.communicate()
    until(lambda: is_gone(pid), "it has ended")
