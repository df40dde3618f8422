"""Memory and disk alarms of RabbitMQ, under which it accepts no messages."""

import asyncio
from pathlib import Path
from shutil import disk_usage

from broker.amqp.robust_connection import PROBE
from broker.amqp.session import Session
from broker.errors import BrokerUnreachable
from broker.futures import resolve

_TIMEOUT_SECONDS = 10.0
_LITTLE_MEGABYTES = 1_000  # with more free space, the alarm is about another disk


async def alarm_at(url: str) -> str | None:
    """Return why RabbitMQ accepts no messages now, such as `low on disk`; None when it accepts messages.

    Raises BrokerError when RabbitMQ cannot be reached, or does not answer within 10 seconds.
    """
    answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    session = Session(url, "fluffle alarm", lambda: None, on_blocked=lambda reason: resolve(answered, reason))
    await session.open()
    try:
        session.confirm(lambda confirms, refused: resolve(answered, None), lambda exchange, routing_key, body: None)
        session.publish(PROBE)
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await answered
    except TimeoutError as error:
        raise BrokerUnreachable(
            f"RabbitMQ at {session.where} has not answered within {_TIMEOUT_SECONDS:g} s"
        ) from error
    finally:
        await session.close()


def alarm_of_node(url: str, folder: Path) -> str | None:
    """Return the alarm of the private node in `folder` as a sentence; None when the node accepts messages.

    Raises the errors of `alarm_at`.
    """
    alarm = asyncio.run(alarm_at(url))
    if alarm is None:
        return None
    free = disk_usage(folder).free // 1_000_000
    left = f", {free} MB are free at {folder}" if "disk" in alarm and free < _LITTLE_MEGABYTES else ""
    return f"RabbitMQ accepts no messages: {alarm}{left}. It accepts them again when enough is free"
