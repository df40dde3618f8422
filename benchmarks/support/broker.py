"""The RabbitMQ that a benchmark uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.node.private_node import PrivateNode


@dataclass(frozen=True, slots=True)
class Broker:
    """The AMQP URL of a broker, with password, and its description."""

    url: str
    name: str


@contextmanager
def broker(url: str | None, folder: Path) -> Iterator[Broker]:
    """Yield the broker at `url`, or a private node with its data in `folder`, which stops at the end."""
    if url is not None:
        yield Broker(url, "the given RabbitMQ")
        return
    node = PrivateNode(folder)
    try:
        yield Broker(node.start(), f"RabbitMQ {node.status().version}")
    finally:
        node.stop()
