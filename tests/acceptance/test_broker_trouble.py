"""Limits, alarms, timeouts and restarts of RabbitMQ, the same on 3.10 and 4.x."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConsumerCancelled

from tests.support.amqp import Amqp, amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site
from tests.support.task_audit import Ledger

CONSUMER_TIMEOUT = float(os.environ.get("FLUFFLE_TEST_CONSUMER_TIMEOUT", "2"))  # seconds; RabbitMQ's default is 1,800
BACKLOG = 2_000  # tasks
WAIT = ("--handler", "tests.support.recording_llms:wait_for_gate")
WORK = ("--handler", "tests.support.recording_llms:work", "--slots", "20")


def submit_one(client: Amqp, ledger: Ledger, gate: Path) -> str:
    """Submit a task that runs until its gate is opened, and wait until it runs."""
    answers = client.queue()
    client.submit({"description": "-", "inputs": {"gate": str(gate)}}, reply_to=answers)
    task_id = str(client.take(answers).json()["id"])
    ledger.note(task_id)
    until(lambda: ledger.effects("started"), "the task runs")
    return task_id


def test_a_message_that_is_never_acknowledged_is_dead_lettered(site: Site, ledger: Ledger, client: Amqp) -> None:
    site.worker("ann", *WORK, env=ledger.env).terminate()
    until(lambda: not site.workers[0].alive, "the worker has declared its queue and left")
    client.publish("fluffle.work", "llm.ann", {"task_id": "t-1"})
    with pika.BlockingConnection(pika.URLParameters(site.url)) as connection:
        channel = connection.channel()
        returned = 0
        for method, _, _ in channel.consume("llm.ann.work", inactivity_timeout=5):
            if method is None:
                break
            channel.basic_reject(method.delivery_tag, requeue=True)
            returned += 1
    assert 20 <= returned <= 21, "delivered again 20 times"
    dead = client.take("fluffle.rejected")
    assert dead.headers["x-death"][0]["reason"] == "delivery_limit"
    assert dead.json() == {"task_id": "t-1"}


@pytest.fixture
def alarm(rabbitmq: NodeInfo) -> Iterator[None]:
    """Clear the memory alarm that the test raises."""
    yield
    rabbitmq.control("set_vm_memory_high_watermark", "0.25")


@pytest.mark.usefixtures("alarm")
def test_a_memory_alarm_delays_results_and_loses_none(
    rabbitmq: NodeInfo, site: Site, ledger: Ledger, client: Amqp, tmp_path: Path
) -> None:
    site.coordinator()
    worker = site.worker("ann", *WAIT, env=ledger.env)
    task_id = submit_one(client, ledger, tmp_path / "gate")
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    until(lambda: json.loads(rabbitmq.control("status", "--formatter", "json"))["alarms"], "the alarm is raised")
    (tmp_path / "gate").touch()
    until(lambda: ledger.done() == 1, "the work is done all the same")
    assert site.select(f"select status from tasks where id = '{task_id}'") == [("in_progress",)]
    rabbitmq.control("set_vm_memory_high_watermark", "0.25")
    completed = f"select 1 from tasks where id = '{task_id}' and status = 'completed'"
    until(lambda: site.select(completed), "its result is recorded", within=60)
    assert worker.alive
    site.drain()
    assert ledger.problems() == []
    assert ledger.done() == 1


def hoard(channel: Any, queue: str, *, within: float) -> None:
    """Take a delivery and never acknowledge it."""
    for method, _, _ in channel.consume(queue, inactivity_timeout=within):
        if method is None:
            return


@pytest.fixture
def short_consumer_timeout(rabbitmq: NodeInfo) -> Iterator[None]:
    """Let RabbitMQ wait only seconds for an acknowledgement, on channels opened from now on."""
    names = ("consumer_timeout", "channel_tick_interval")
    before = {name: rabbitmq.control("eval", f"application:get_env(rabbit, {name}).").strip() for name in names}
    for name, seconds in zip(names, (CONSUMER_TIMEOUT, 1), strict=True):
        rabbitmq.control("eval", f"application:set_env(rabbit, {name}, {round(seconds * 1000)}).")
    yield
    for name, value in before.items():
        if value.startswith("{ok,"):
            rabbitmq.control("eval", f"application:set_env(rabbit, {name}, {value[4:-1]}).")
        else:
            rabbitmq.control("eval", f"application:unset_env(rabbit, {name}).")


@pytest.mark.usefixtures("short_consumer_timeout")
def test_a_task_may_take_longer_than_rabbitmq_waits_for_an_acknowledgement(
    site: Site, ledger: Ledger, client: Amqp, tmp_path: Path
) -> None:
    site.coordinator()
    worker = site.worker("ann", *WAIT, env=ledger.env)
    task_id = submit_one(client, ledger, tmp_path / "gate")
    queue = client.queue(name="hoarder", durable=True)
    site.queues.add(queue)
    client.publish("", queue, {})
    for _ in range(3):  # three times as long as RabbitMQ waits
        with (
            pika.BlockingConnection(pika.URLParameters(site.url)) as connection,
            pytest.raises((ChannelClosedByBroker, ConsumerCancelled)),
        ):
            hoard(connection.channel(), queue, within=30 + 3 * CONSUMER_TIMEOUT)
    (tmp_path / "gate").touch()
    until(lambda: site.select(f"select 1 from tasks where id = '{task_id}' and status = 'completed'"), "it is done")
    assert "lost the connection" not in worker.output
    assert site.select(f"select attempt from tasks where id = '{task_id}'") == [(1,)]


def test_a_restart_with_a_full_backlog_loses_no_task(rabbitmq: NodeInfo, site: Site, ledger: Ledger) -> None:
    ids = [f"backlog-{number}" for number in range(BACKLOG)]
    with amqp(site.url) as client:
        for task_id in ids:
            client.submit({"id": task_id, "description": "-"}, delivery_mode=2)
    ledger.note(*ids)
    worker = site.worker("ann", *WORK, env=ledger.env)
    rabbitmq.control("stop_app")
    until(lambda: "lost the connection" in worker.output, "the worker notices")
    rabbitmq.control("start_app")
    site.coordinator()
    until(lambda: ledger.done() >= BACKLOG, "all of the backlog is done", within=120)
    site.drain()
    assert ledger.problems() == []
