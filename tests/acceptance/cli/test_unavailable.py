"""Commands without RabbitMQ or without a coordinator."""

from pathlib import Path

import pytest

from tests.support.rabbitmq import private_node
from tests.support.shell import Shell


def test_an_unreachable_broker_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    shell = Shell("amqp://guest:guest@127.0.0.1:1/", tmp_path)
    for arguments in (["task", "list"], ["rejected", "list"], ["task", "submit", "x"], ["report"]):
        assert shell.error(*arguments).startswith("RabbitMQ at 127.0.0.1:1 cannot be reached")


def test_without_a_broker_the_error_says_what_to_do(tmp_path: Path) -> None:
    shell = Shell("", tmp_path)
    del shell.environment["FLUFFLE_AMQP_URL"]
    assert shell.error("task", "list") == (
        "no RabbitMQ is configured: start a private one with `fluffle broker start`, or set FLUFFLE_AMQP_URL"
    )


def test_without_a_coordinator_the_error_says_what_to_do(tmp_path: Path) -> None:
    with private_node(tmp_path) as node:
        if node.node is None:
            pytest.skip("the broker may have a coordinator")
        shell = Shell(node.url, tmp_path)
        said = shell.error("task", "submit", "x", "--id", "early")
        assert said == (
            "no coordinator answered within 10 s. Task early is in RabbitMQ and will be done when a coordinator comes: "
            "start one with `fluffle coordinator`"
        )
