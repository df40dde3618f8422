"""A disk alarm of RabbitMQ, which blocks all publishers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from broker.amqp.alarms import alarm_at
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo


@contextmanager
def low_on_disk(rabbitmq: NodeInfo) -> Iterator[None]:
    """Raise the disk alarm of RabbitMQ during the block."""
    rabbitmq.control("set_disk_free_limit", "1000000GB")
    try:
        until(lambda: asyncio.run(alarm_at(rabbitmq.url)) == "low on disk", "the alarm is raised")
        yield
    finally:
        rabbitmq.control("set_disk_free_limit", "50MB")
        until(lambda: asyncio.run(alarm_at(rabbitmq.url)) is None, "the alarm is over")
