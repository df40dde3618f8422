"""The spool: answers on disk until they are confirmed."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker.protocol.worker_reports import Result
from workers.execution import spool as spool_module
from workers.execution.spool import Spool


def answer(task_id: str, text: str = "done") -> bytes:
    return Result(task_id=task_id, attempt=1, instance="i-1", outcome="completed", result=text).encode()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def lines(folder: Path) -> list[bytes]:
    return [line for path in files(folder) for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def opened(folder: Path, instance: str) -> AsyncIterator[Spool]:
    async with aclosing(Spool(folder, instance)) as spool:
        yield spool


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_a_result_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as spool:
        spool.add(answer("t-1"))
        assert lines(tmp_path) == [answer("t-1")]


async def test_only_the_owner_can_read_the_results(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "atlas"
    async with opened(folder, "one") as spool:
        spool.add(answer("t-1"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(path.stat().st_mode) for path in files(folder)] == [0o600]


async def test_the_file_is_empty_when_every_result_is_confirmed(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as spool:
        tickets = [spool.add(answer(f"t-{number}")) for number in range(3)]
        spool.confirmed(tickets[1])
        spool.confirmed(tickets[0])
        assert spool.waiting == {tickets[2]: answer("t-2")}
        assert answer("t-2") in lines(tmp_path)
        spool.confirmed(tickets[2])
        assert (len(spool), lines(tmp_path)) == (0, [])


async def test_a_spool_without_results_leaves_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as spool:
        spool.confirmed(spool.add(answer("t-1")))
    assert files(tmp_path) == []


async def test_the_next_instance_takes_over_the_results_that_were_left(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as spool:
        spool.confirmed(spool.add(answer("t-1")))
        spool.add(answer("t-2"))
        spool.add(answer("t-3"))
    async with opened(tmp_path, "two") as spool:
        assert list(spool.waiting.values()) == [answer("t-2"), answer("t-3")]
        assert [path.name for path in files(tmp_path)] == ["two-1.jsonl"]
        for ticket in spool.waiting:
            spool.confirmed(ticket)
    assert files(tmp_path) == []


async def test_the_results_of_a_running_instance_are_not_taken_over(tmp_path: Path) -> None:
    async with opened(tmp_path, "one") as alive:
        alive.add(answer("t-1"))
        async with opened(tmp_path, "two") as spool:
            assert len(spool) == 0
        assert lines(tmp_path) == [answer("t-1")]


def test_the_results_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from workers.execution.spool import Spool\n"
        "async def main():\n"
        "    Spool(Path(sys.argv[1]), 'killed').add(sys.argv[2].encode())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path, answer("t-1").decode()], check=False)
    assert killed.returncode < 0
    assert list(Spool(tmp_path, "next").waiting.values()) == [answer("t-1")]


async def test_damaged_lines_are_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torn = answer("t-3")[:-20]
    content = b"\n".join([answer("t-1"), b'{"task_id": "no result"}', b"\x00" * 64, answer("t-2"), torn])
    (tmp_path / "dead-1.jsonl").write_bytes(content)
    async with opened(tmp_path, "two") as spool:
        assert list(spool.waiting.values()) == [answer("t-1"), answer("t-2")]
    told = [record.getMessage() for record in caplog.records]
    assert [message.partition(": ")[2] for message in told] == [
        f"line {number} is damaged and was skipped" for number in (2, 3, 5)
    ]


async def test_a_file_of_confirmed_results_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "REWRITE_OVER", 10_000)
    async with opened(tmp_path, "one") as spool:
        kept = spool.add(answer("kept"))
        for number in range(1000):
            spool.confirmed(spool.add(answer(f"t-{number}", "x" * 100)))
            assert sum(path.stat().st_size for path in files(tmp_path)) < 11_000
        assert list(spool.waiting) == [kept]
        assert answer("kept") in lines(tmp_path)
        spool.add(answer("last"))
    async with opened(tmp_path, "two") as spool:
        assert {answer("kept"), answer("last")} <= set(spool.waiting.values())


async def test_results_that_wait_for_their_confirm_share_an_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[bytes]] = []

    def sync(file: int) -> None:
        synced.append(lines(tmp_path))

    async with opened(tmp_path, "one") as spool:
        monkeypatch.setattr(os, "fsync", sync)
        tickets = [spool.add(answer("t-1")), spool.add(answer("t-2"))]
        await until(lambda: bool(synced))
        assert synced == [[answer("t-1"), answer("t-2")]]
        tickets.append(spool.add(answer("t-3")))
        await until(lambda: len(synced) == 2)
        for ticket in tickets:
            spool.confirmed(ticket)


async def test_a_result_that_is_confirmed_at_once_needs_no_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    async with opened(tmp_path, "one") as spool:
        monkeypatch.setattr(os, "fsync", synced.append)
        for number in range(20):  # for longer than an answer may wait
            spool.confirmed(spool.add(answer(f"t-{number}")))
            await asyncio.sleep(spool_module.SYNC_AFTER / 5)
        assert synced == []


async def test_a_full_disk_does_not_damage_the_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write
    async with opened(tmp_path, "one") as spool:
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        lost = spool.add(answer("t-1"))
        monkeypatch.setattr(os, "write", write)
        spool.add(answer("t-2"))
        assert spool.waiting[lost] == answer("t-1")
        assert lines(tmp_path) == [answer("t-2")]
    assert "No space left on device" in caplog.text


def test_an_unusable_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="spool folder"):
        Spool(tmp_path / "file" / "atlas", "one")
