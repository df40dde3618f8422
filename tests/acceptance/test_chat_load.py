"""A slice of `make mail`: chat between all addresses while RabbitMQ is killed."""

import asyncio

import pytest

from tests.programs.chat_load import OF_EACH, run_chat_load
from tests.support.site import Site
from tests.support.task_audit import Ledger


def test_every_message_is_shown_once_and_in_order_when_rabbitmq_is_killed(site: Site, ledger: Ledger) -> None:
    if site.rabbitmq.node is None:
        pytest.skip("this broker is not ours to kill")
    it = asyncio.run(run_chat_load(site, ledger, 2 * OF_EACH))
    assert it.problems() == []
    assert sum(map(len, it.shown.values())) + len(it.heard) == it.messages == 2 * OF_EACH
