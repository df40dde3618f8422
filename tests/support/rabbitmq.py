"""A RabbitMQ for tests: a private node, or RabbitMQ 4 in a container with FLUFFLE_TEST_BROKER=rabbitmq4."""

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from broker.node.private_node import PrivateNode

IMAGE = "rabbitmq:4-management"
ON_RABBITMQ_4 = os.environ.get("FLUFFLE_TEST_BROKER") == "rabbitmq4"
_AMQP, _MANAGEMENT = 5672, 15672


def _no_control(*arguments: object) -> str:
    pytest.skip("this broker is not ours to control")


@dataclass(frozen=True)
class NodeInfo:
    """A broker for tests. `node` is None when the tests may not stop or kill the broker.

    `settings` are the settings with which `fluffle` administrates it; `control` runs `rabbitmqctl` on it; `suspend`
    suspends its processes, and resumes them when called with False.
    """

    url: str
    node: PrivateNode | None
    settings: Mapping[str, str] = field(default_factory=dict)
    control: Callable[..., str] = _no_control
    suspend: Callable[[bool], object] = _no_control


@contextmanager
def private_node(folder: Path) -> Iterator[NodeInfo]:
    """Run a broker, which stops at the end, in `folder` if it is a private node.

    With FLUFFLE_TEST_AMQP_URL it is the broker at that address, which keeps running.
    """
    if url := os.environ.get("FLUFFLE_TEST_AMQP_URL"):
        yield NodeInfo(url, None)
    elif ON_RABBITMQ_4:
        yield from _container()
    else:
        node = PrivateNode(folder)
        try:
            settings = {"FLUFFLE_STATE_DIR": str(folder)}
            yield NodeInfo(node.start(), node, settings, node.control, partial(_suspend, node))
        finally:
            node.stop()


def _suspend(node: PrivateNode, stopped: bool) -> None:
    pid = node.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)


def _container() -> Iterator[NodeInfo]:
    from testcontainers.community.rabbitmq import RabbitMqContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True  # it would need one more image
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

        def suspend(stopped: bool) -> None:
            name = running.get_wrapped_container().name
            subprocess.run(["docker", "pause" if stopped else "unpause", name], capture_output=True, check=True)

        url = f"amqp://fluffle:{password}@{host}:{port}/%2F"
        yield NodeInfo(url, None, settings, control, suspend)
