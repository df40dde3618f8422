"""A worker that is not connected. The tests in tests/integration/workers connect it."""

import asyncio
from pathlib import Path

import pytest

from workers.app import build_worker
from workers.models.factory import build_llm
from workers.worker import Worker


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    llm = build_llm(model="demo", base_url=None, exec_command=None, handler=None)
    return build_worker(url="amqp://127.0.0.1:9", name="atlas", llm=llm, spool_dir=tmp_path / "spool")


@pytest.mark.parametrize("method", ["drain", "stop"])
async def test_a_worker_that_is_drained_or_stopped_before_it_runs_never_connects(
    worker: Worker, method: str, tmp_path: Path
) -> None:
    getattr(worker, method)()
    getattr(worker, method)()
    assert not worker.connected
    async with asyncio.timeout(5):
        await worker.run()
    assert not worker.ready.is_set()
    assert not (tmp_path / "spool").exists()


async def test_a_worker_that_is_drained_while_rabbitmq_is_away_leaves(worker: Worker) -> None:
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    worker.drain()
    async with asyncio.timeout(5):
        await running
    assert not worker.connected
