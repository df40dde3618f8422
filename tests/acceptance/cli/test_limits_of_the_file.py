"""The limits, budgets and grants that `fluffle up` sends, received by a fake coordinator."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.protocol.spending import LimitList, LimitView
from broker.protocol.views import LLMView
from fluffle.local.config import Configuration, load
from fluffle.local.operator_requests import send_configuration
from tests.support.answering_coordinator import AnsweringCoordinator, answering_coordinator
from tests.support.client_waits import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on

FILE = """
[limits.main]
requests_per_minute = 500

[budgets.team]
usd = 20
per = "day"

[llm.atlas]
model = "demo"
local = true
reserve = true
"""


def read(folder: Path) -> Configuration:
    (folder / "fluffle.toml").write_text(FILE, encoding="utf-8")
    return load(folder / "fluffle.toml")


@pytest.fixture
def answering(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[AnsweringCoordinator]:
    """A fake coordinator that knows no LLM yet."""
    with site_on(rabbitmq, tmp_path) as site, answering_coordinator(site.url) as it:
        yield it


async def test_limits_and_budgets_are_sent_at_once_and_grants_when_the_llm_has_connected(
    answering: AnsweringCoordinator, rabbitmq: NodeInfo, tmp_path: Path
) -> None:
    told: list[str] = []

    answering.limits = LimitList(limits=[LimitView(name="main", state="open")])
    answering.replies["manage_budget"] = lambda sent: f"budget: {sent['budget']} is not allowed"
    sending = asyncio.create_task(
        send_configuration(rabbitmq.url, read(tmp_path), lambda name, line: told.append(f"{name}: {line}"))
    )
    await until(lambda: [key for key, _ in answering.received] == ["manage_limit", "manage_budget"])
    assert not sending.done()
    answering.llms = [LLMView(name="atlas", state="online", instances=["i-1"])]
    async with asyncio.timeout(20):
        await sending
    assert answering.received == [
        (
            "manage_limit",
            {"limit": "main", "requests_per_minute": 500, "tokens_per_minute": None, "concurrent": None},
        ),
        (
            "manage_budget",
            {
                "budget": "team",
                "usd": 20,
                "tokens": None,
                "runs": None,
                "per": "day",
                "by": None,
                "on_empty": "wait",
            },
        ),
        ("manage", {"llm": "atlas", "local": True, "reserve": True}),
    ]
    assert told == ["up: budgets.team: budget: team is not allowed"]


async def test_a_file_without_limits_budgets_and_grants_needs_no_coordinator(tmp_path: Path) -> None:
    (tmp_path / "fluffle.toml").write_text('[llm.atlas]\nmodel = "demo"\n', encoding="utf-8")
    configuration = load(tmp_path / "fluffle.toml")
    await asyncio.wait_for(send_configuration("amqp://127.0.0.1:9", configuration, lambda *_: None), 5)
