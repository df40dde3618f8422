"""A worker while RabbitMQ is away, and the results that RabbitMQ has not confirmed."""

import asyncio
import logging

import pika
import pytest

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import AccessRefused
from broker.protocol.topology import SHARED, TASKS, work_queue
from broker.protocol.worker_reports import Result, RunningTask
from tests.support.fake_coordinator import WITHIN, StandIn
from tests.support.proxy import CONSUMER, Proxy
from tests.support.rabbitmq import NodeInfo
from tests.support.worker_harness import Scripted, Workers, for_ever, until
from workers.execution.spool import Spool

# -- when RabbitMQ is away -----------------------------------------------------------------------------------------


async def test_a_worker_started_before_rabbitmq_waits_and_then_connects(
    workers: Workers, coordinator: StandIn, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.cut()
    starting = asyncio.create_task(workers.make(url=proxy.url).run())
    await until(lambda: "waiting for RabbitMQ" in caplog.text)
    assert "Connection refused" in caplog.text
    await proxy.open()
    await coordinator.next("hello")
    starting.cancel()
    await asyncio.wait([starting])


async def test_a_worker_declares_what_is_missing_in_rabbitmq(workers: Workers, amqp_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        for exchange in SHARED.exchanges:
            connection.channel().exchange_delete(exchange.name)
    async with workers.one(), RobustConnection(amqp_url, name="look") as link:
        await link.publish(Outgoing(TASKS, "submit", b"{}"))


async def test_a_worker_drained_while_it_waits_for_rabbitmq_leaves(workers: Workers, proxy: Proxy) -> None:
    proxy.cut()
    worker = workers.make(url=proxy.url)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    worker.drain()
    await asyncio.wait_for(running, WITHIN)


async def test_a_worker_with_a_refused_user_fails_at_once(workers: Workers, amqp_url: str) -> None:
    host = amqp_url.rpartition("@")[2]
    with pytest.raises(AccessRefused, match="refused the user"):
        await workers.make(url=f"amqp://nobody:wrong@{host}").run()


async def test_a_broken_connection_loses_no_task(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    release = llm.waits("t-1")
    async with workers.one(url=proxy.url, slots=2) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.cut()
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        await proxy.open()
        assert (await coordinator.next("result")).result == "done"
        await coordinator.until(lambda: len(coordinator.all("hello", instance=worker.instance)) == 2)
        await coordinator.assign("t-2", "and on")
        assert (await coordinator.next("result", task_id="t-2")).result == "and on"
        await coordinator.stop(worker.instance, "t-none")  # the control queue is there again
        await until(lambda: workers.spooled() == [])
    assert [job.task_id for job in llm.jobs] == ["t-1", "t-2"]


async def test_a_worker_reconnects_while_rabbitmq_still_keeps_the_old_connection(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(url=proxy.url) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.break_for_clients()
        await coordinator.until(lambda: len(coordinator.all("hello", instance=worker.instance)) == 2)
        await coordinator.stop(worker.instance, "t-1")
        assert (await coordinator.next("result")).outcome == "cancelled"


async def test_a_redelivered_assignment_does_not_run_when_a_stop_answers_its_claim(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy, name: str
) -> None:
    async with workers.one(url=proxy.url, slots=2) as worker:
        proxy.pairs[CONSUMER].hold_answers()  # as for a connection that is dead and that RabbitMQ believes in
        await coordinator.assign("t-1")
        await coordinator.assign("t-2", "done")
        await coordinator.delivered()
        proxy.break_connections()
        await coordinator.next("claim", task_id="t-1")
        await coordinator.stop(worker.instance, "t-1")
        assert (await coordinator.next("result", task_id="t-1")).outcome == "cancelled"
        assert (await coordinator.next("result", task_id="t-2")).result == "done"
    assert [job.task_id for job in llm.jobs] == ["t-2"]


async def test_a_worker_sends_heartbeats_while_its_consuming_connection_is_lost(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str, amqp_url: str
) -> None:
    def replace_queue() -> None:
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            connection.channel().queue_delete(work_queue(name))
            connection.channel().queue_declare(work_queue(name))

    llm.plays("t-1", for_ever)
    async with workers.one(lease=1) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await asyncio.to_thread(replace_queue)
        await until(lambda: not worker.connected)
        before = len(coordinator.all("beat"))
        await coordinator.until(lambda: len(coordinator.all("beat")) > before + 3)
        assert not worker.connected
        assert coordinator.all("beat")[-1].tasks == [RunningTask(task_id="t-1", attempt=1)]


async def test_the_hello_after_a_reconnect_lists_the_running_tasks(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(url=proxy.url):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.break_connections()
        await coordinator.next("hello", tasks=[RunningTask(task_id="t-1", attempt=1)])


async def test_an_unclaimed_assignment_redelivered_after_a_reconnect_is_done_once(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy, name: str
) -> None:
    release = llm.waits("t-1")
    async with workers.one(url=proxy.url) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await coordinator.assign("t-2", "waited")
        await coordinator.delivered()
        proxy.pairs[CONSUMER].abort()
        await coordinator.until(lambda: len(coordinator.all("hello")) == 2)
        release.set()
        assert (await coordinator.next("result", task_id="t-2")).result == "waited"
        await coordinator.drain(worker.instance)
        await coordinator.next("goodbye")
    assert [job.task_id for job in llm.jobs] == ["t-1", "t-2"]
    assert await coordinator.depth(work_queue(name)) == 0


async def test_a_restart_of_rabbitmq_loses_no_task(
    rabbitmq: NodeInfo, workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    if rabbitmq.node is None:
        pytest.skip("the broker is not ours to stop")
    release = llm.waits("t-1")
    async with workers.one(slots=2):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await asyncio.to_thread(rabbitmq.node.stop)
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        await asyncio.to_thread(rabbitmq.node.start)
        assert (await coordinator.next("result")).result == "done"
        await coordinator.assign("t-2", "and on")
        assert (await coordinator.next("result", task_id="t-2")).result == "and on"


# -- results that RabbitMQ did not confirm -------------------------------------------------------------------------


async def test_the_spooled_results_of_a_dead_instance_are_sent_before_the_hello(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    left = Result(task_id="t-1", attempt=1, instance="dead-1", outcome="completed", result="paid for")
    torn = left.encode()[:-10]
    folder = workers.state_dir / "spool" / name
    folder.mkdir(parents=True)
    (folder / "dead-1-1.jsonl").write_bytes(left.encode() + b"\n" + torn)
    async with workers.one():
        assert await coordinator.next("result") == left
        await coordinator.next("hello")
        assert [kind for kind, _ in coordinator.heard] == ["result", "hello"]
        await until(lambda: workers.spooled() == [])
        assert not (folder / "dead-1-1.jsonl").exists()
        await coordinator.assign("t-1")  # its acknowledgement was lost with the instance
        await coordinator.assign("t-2", "next")
        await coordinator.next("result", task_id="t-2")
    assert [job.task_id for job in llm.jobs] == ["t-2"]


async def test_a_spooled_result_over_a_new_size_limit_is_reported_as_a_failure(
    workers: Workers, coordinator: StandIn, name: str
) -> None:
    left = Result(task_id="t-1", attempt=1, instance="dead-1", outcome="completed", result="x" * 5000)
    async with asyncio.timeout(WITHIN):
        spool = Spool(workers.state_dir / "spool" / name, "dead-1")
        spool.add(left.encode())
        await spool.aclose()
    async with workers.one(max_body=4096):
        result = await coordinator.next("result")
        assert (result.instance, result.error.type) == ("dead-1", "result_too_large")
        await until(lambda: workers.spooled() == [])


async def test_a_result_that_rabbitmq_refuses_is_published_again(
    workers: Workers, coordinator: StandIn, llm: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    release = llm.waits("t-1")
    async with workers.one():
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        async with coordinator.deaf():
            release.set()
            await until(lambda: "did not take a result" in caplog.text)
            assert len(workers.spooled()) == 1
        assert (await coordinator.next("result")).result == "done"
        await until(lambda: workers.spooled() == [])


async def test_the_log_holds_no_text_of_a_task(
    workers: Workers, coordinator: StandIn, llm: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with workers.one():
        await coordinator.assign("t-1", "the secret of the sea", inputs={"text": "the secret of the sea"})
        await coordinator.next("result")
    assert "t-1" in {getattr(record, "task", None) for record in caplog.records}
    assert "secret" not in caplog.text
