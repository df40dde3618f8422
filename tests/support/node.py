"""A RabbitMQ for tests: a private node, or RabbitMQ 4 in a container if FLUFFLE_TEST_BROKER=rabbitmq4 asks for it."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.node import PrivateNode

IMAGE = "rabbitmq:4-management"
ON_RABBITMQ_4 = os.environ.get("FLUFFLE_TEST_BROKER") == "rabbitmq4"
_AMQP, _MANAGEMENT = 5672, 15672


def _no_control(*arguments: str) -> str:
    pytest.skip("this broker is not ours to control")


@dataclass(frozen=True)
class NodeInfo:
    """A broker to test with. `node` is None when the broker is not ours to stop or kill.

    `settings` are what `fluffle` needs to administrate it; `control` runs `rabbitmqctl` there.
    """

    url: str
    node: PrivateNode | None
    settings: Mapping[str, str] = field(default_factory=dict)
    control: Callable[..., str] = _no_control


@contextmanager
def private_node(folder: Path) -> Iterator[NodeInfo]:
    """A broker that is stopped at the end, in `folder` if it is a private node.

    It is that of FLUFFLE_TEST_AMQP_URL where that is set, and left as it is.
    """
    if url := os.environ.get("FLUFFLE_TEST_AMQP_URL"):
        yield NodeInfo(url, None)
    elif ON_RABBITMQ_4:
        yield from _container()
    else:
        node = PrivateNode(folder)
        try:
            yield NodeInfo(node.start(), node, {"FLUFFLE_STATE_DIR": str(folder)}, node.control)
        finally:
            node.stop()


def _container() -> Iterator[NodeInfo]:
    from testcontainers.community.rabbitmq import RabbitMqContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True  # it would be one more image to fetch
    password = secrets.token_hex(12)
    container = RabbitMqContainer(IMAGE, username="fluffle", password=password)
    with container.with_exposed_ports(_AMQP, _MANAGEMENT) as running:
        host, port, management = "127.0.0.1", running.get_exposed_port(_AMQP), running.get_exposed_port(_MANAGEMENT)
        settings = {"FLUFFLE_MANAGEMENT_URL": f"http://{host}:{management}"}

        def control(*arguments: str) -> str:
            name = running.get_wrapped_container().name
            done = subprocess.run(["docker", "exec", name, "rabbitmqctl", *arguments], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield NodeInfo(f"amqp://fluffle:{password}@{host}:{port}/%2F", None, settings, control)
