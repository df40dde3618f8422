"""A RabbitMQ for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.node import PrivateNode


@dataclass(frozen=True)
class NodeInfo:
    """A broker to test with. `node` is None when the broker is not ours to stop or kill."""

    url: str
    node: PrivateNode | None


@contextmanager
def private_node(folder: Path) -> Iterator[NodeInfo]:
    """A private node in `folder`, stopped at the end; or the broker of FLUFFLE_TEST_AMQP_URL, left as it is."""
    if url := os.environ.get("FLUFFLE_TEST_AMQP_URL"):
        yield NodeInfo(url, None)
        return
    node = PrivateNode(folder)
    try:
        yield NodeInfo(node.start(), node)
    finally:
        node.stop()
