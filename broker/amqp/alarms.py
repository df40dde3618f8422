"""Whether RabbitMQ takes messages. Under a memory or disk alarm it takes none until the alarm is over."""

import asyncio
from pathlib import Path
from shutil import disk_usage

from broker.amqp.robust_connection import PROBE
from broker.amqp.session import Session
from broker.errors import BrokerUnreachable
from broker.futures import resolve

_WITHIN = 10.0  # seconds
_LITTLE = 1_000  # MB; where more is free, the alarm is about another disk


async def alarm_at(url: str) -> str | None:
    """Why RabbitMQ takes no messages at the moment, such as `low on disk`; None when it takes them.

    Raises BrokerError when it cannot be reached, or says neither within 10 seconds.
    """
    told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    half = Session(url, "fluffle alarm", lambda: None, on_blocked=lambda reason: resolve(told, reason))
    await half.open()
    try:
        half.confirm(lambda confirms, refused: resolve(told, None), lambda exchange, routing_key, body: None)
        half.publish(PROBE)
        async with asyncio.timeout(_WITHIN):
            return await told
    except TimeoutError as error:
        raise BrokerUnreachable(f"RabbitMQ at {half.where} has not answered within {_WITHIN:g} s") from error
    finally:
        await half.close()


def alarm_of_node(url: str, folder: Path) -> str | None:
    """The same of the private node in `folder`, as a sentence that says what helps; None when it takes messages.

    Raises what `alarm_at` raises.
    """
    alarm = asyncio.run(alarm_at(url))
    if alarm is None:
        return None
    free = disk_usage(folder).free // 1_000_000
    left = f", {free} MB are free at {folder}" if "disk" in alarm and free < _LITTLE else ""
    return f"RabbitMQ takes no messages: {alarm}{left}. It takes them again when enough is free"
