"""The RabbitMQ that a benchmark runs on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.node.private_node import PrivateNode


@dataclass(frozen=True, slots=True)
class Broker:
    """Its AMQP URL, with password, and what to call it."""

    url: str
    name: str


@contextmanager
def broker(url: str | None, folder: Path) -> Iterator[Broker]:
    """The broker at `url`; without one, a private node with its data in `folder`, stopped at the end."""
    if url is not None:
        yield Broker(url, "the given RabbitMQ")
        return
    node = PrivateNode(folder)
    try:
        yield Broker(node.start(), f"RabbitMQ {node.status().version}")
    finally:
        node.stop()
