"""`fluffle limit`, `fluffle budget`, and the health of LLMs, with the answers of a fake coordinator."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.protocol.spending import BudgetList, BudgetView, LimitList, LimitView
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.views import HealthView, LastError, LLMView, PriceView, TaskView
from tests.support.answering_coordinator import AnsweringCoordinator, answering_coordinator
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import site_on

NOW = datetime.now(UTC)
CLOSED = LimitView(
    name="openai-main",
    state="closed",
    until=NOW + timedelta(minutes=5),
    why="429",
    tier="throttle",
    llms=["atlas", "vega"],
    running=2,
    allowed=8,
    requests_per_minute=500,
    requests_left=1,
)
TEAM = BudgetView(
    name="team",
    usd=20.0,
    per="day",
    state="warning",
    spent_usd=16.0,
    reserved_usd=0.5,
    left_usd=3.5,
    since=NOW - timedelta(hours=12),
    until=NOW + timedelta(hours=12),
)
UNKNOWN = BudgetView(name="guests", value="ana", usd=5.0, by="submitter", unknown_runs=3, left_usd=5.0)
SICK = LLMView(
    name="vega",
    state="online",
    slots=2,
    model="openai:gpt-6-luna",
    limit="openai-main",
    reserve=True,
    spill="busy",
    spill_after=90.0,
    why_not="its circuit breaker is open",
    health=HealthView(
        state="open",
        why="authentication failed",
        last_error=LastError(type="authentication", message="invalid key", at=NOW - timedelta(minutes=3)),
        next_probe=NOW + timedelta(hours=2),
        failed=4,
    ),
)
WELL = LLMView(
    name="atlas",
    state="online",
    slots=2,
    price=PriceView(input=3, output=15),
    health=HealthView(completed=12, failed=1, tokens_per_second=35.24, seconds_per_task=4.2, cost_usd=0.0123),
)


@pytest.fixture(scope="module")
def answering(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringCoordinator]:
    """A fake coordinator that knows two LLMs, a limit and two budgets."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("limits")) as site, answering_coordinator(site.url) as it:
        it.limits = LimitList(limits=[CLOSED, LimitView(name="local", state="open")])
        it.budgets = BudgetList(budgets=[TEAM, UNKNOWN])
        it.llms = [WELL, SICK]
        yield it


@pytest.fixture
def shell(answering: AnsweringCoordinator, rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell on the broker of the fake coordinator."""
    answering.received.clear()
    return Shell(rabbitmq.url, tmp_path_factory.mktemp("shell"))


def row(printed: str, name: str) -> list[str]:
    [found] = [line.split("\t") for line in printed.splitlines() if line.startswith(f"{name}\t")]
    return found


def test_limits_are_listed_and_shown_with_why_they_are_closed(shell: Shell) -> None:
    closed = row(shell("limit", "list"), "openai-main")
    assert (closed[1], closed[3], closed[4], closed[5], closed[6]) == (
        "closed",
        "2 of 8",
        "500 requests/min",
        "atlas,vega",
        "429",
    )
    assert datetime.fromisoformat(closed[2]) - NOW < timedelta(minutes=6)
    shown = shell("limit", "show", "openai-main")
    assert re.search(r"^Closed for: +seconds \(throttled\)$", shown, re.MULTILINE)
    assert re.search(r"^Left now: +1 request$", shown, re.MULTILINE)
    assert shell.json("limit", "show", "openai-main")["llms"] == ["atlas", "vega"]
    assert [view["name"] for view in shell.json("limit", "list")] == ["openai-main", "local"]


def test_an_unknown_limit_or_budget_gets_a_suggestion(shell: Shell) -> None:
    assert shell.error("limit", "show", "openai-mian") == (
        "name: there is no rate limit openai-mian; did you mean openai-main?"
    )
    assert shell.error("budget", "show", "tame") == "name: there is no budget tame; did you mean team?"
    assert "No such command 'lst'" in shell.error("limit", "lst", code=2)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (["pause", "openai-main"], {"paused": True}),
        (["resume", "openai-main"], {"paused": False}),
        (["forget", "openai-main"], {"forget": True}),
        (
            ["set", "openai-main", "--requests-per-minute", "500", "--concurrent", "8"],
            {"requests_per_minute": 500, "concurrent": 8},
        ),
        (["set", "openai-main", "--tokens-per-minute", "none"], {"tokens_per_minute": None}),
        (["pause", "openai-main", "--until", "2036-01-01T00:00Z"], {"paused": True, "until": "2036-01-01T00:00:00Z"}),
    ],
)
def test_a_limit_is_changed(typed: list[str], sent: Any, shell: Shell, answering: AnsweringCoordinator) -> None:
    assert shell("limit", *typed).startswith("openai-main\tclosed\t")
    assert answering.commands("manage_limit") == [{"limit": "openai-main", **sent}]


def test_a_limit_is_paused_for_a_time(shell: Shell, answering: AnsweringCoordinator) -> None:
    shell("limit", "pause", "openai-main", "--for", "2h")
    [sent] = answering.commands("manage_limit")
    left = datetime.fromisoformat(sent["until"]) - datetime.now(UTC)
    assert timedelta(hours=1.9) < left <= timedelta(hours=2)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["limit", "pause", "x", "--for", "2h", "--until", "3h"], "Give --until or --for, not both."),
        (["limit", "pause", "x", "--until", "2020-01-01T00:00Z"], "must be in the future"),
        (["limit", "set", "x"], "Give at least one of --requests-per-minute"),
        (["limit", "set", "x", "--concurrent", "0"], "0 is not in the range"),
        (["budget", "set", "x"], "Give at least one of --usd"),
        (["budget", "set", "x", "--usd", "-1"], "-1.0 is not in the range"),
        (["budget", "raise", "x"], "Give at least one of --usd"),
        (["budget", "set", "x", "--per", "year"], "'year' is not one of"),
        (["task", "submit", "x", "--on-empty", "ask"], "--on-empty needs --budget or --budget-tokens"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(
    typed: list[str], told: str, shell: Shell, answering: AnsweringCoordinator
) -> None:
    assert told in shell.error(*typed, code=2)
    assert answering.received == []


def test_impossible_names_and_figures_are_refused_before_anything_is_sent(
    shell: Shell, answering: AnsweringCoordinator
) -> None:
    assert "budget: must be the name of a budget" in shell.error("budget", "set", "My team", "--usd", "1")
    assert "the budget of a task can only be raised" in shell.error("budget", "set", "task:t-1", "--usd", "1")
    assert "usd: " in shell.error("budget", "set", "team", "--usd", "inf")
    assert "needs.0" in shell.error("task", "submit", "x", "--needs", "smell")
    assert answering.received == []


def test_budgets_are_listed_and_shown_with_a_forecast(shell: Shell) -> None:
    listed = shell("budget", "list")
    assert row(listed, "team")[2:8] == [
        "warning",
        "16.00 USD of 20.00 USD",
        "0.50 USD",
        "3.50 USD",
        "per day",
        "wait",
    ]
    assert row(listed, "guests")[1:4] == ["ana", "ok", "unknown of 5.00 USD, 3 runs of unknown cost"]
    shown = shell("budget", "show", "team")
    assert re.search(r"^Forecast: +(31|32)\.\d\d USD$", shown, re.MULTILINE)
    assert shell.json("budget", "list")["budgets"][0]["left_usd"] == 3.5
    assert "0.0000" not in listed


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (["set", "team", "--usd", "20", "--per", "day"], {"usd": 20, "per": "day"}),
        (["set", "team", "--tokens", "none", "--by", "none", "--on-empty", "ask"], None),
        (["raise", "team", "--usd", "5"], {"raise_usd": 5}),
        (["raise", "team", "--value", "ana", "--tokens", "1000"], {"raise_tokens": 1000, "value": "ana"}),
        (["drop", "team"], {"drop": True}),
    ],
)
def test_a_budget_is_changed(typed: list[str], sent: Any, shell: Shell, answering: AnsweringCoordinator) -> None:
    shell("budget", *typed)
    expected = {"tokens": None, "by": None, "on_empty": "ask"} if sent is None else sent
    assert answering.commands("manage_budget") == [{"budget": "team", **expected}]


def test_all_spending_is_stopped_and_allowed(shell: Shell, answering: AnsweringCoordinator) -> None:
    answering.replies["spending"] = lambda sent: BudgetList(
        budgets=[], stopped=sent["reason"] if sent["stopped"] else None
    )
    assert shell("budget", "stop", "--reason", "too dear") == (
        "All spending is stopped: too dear. To allow it again: fluffle budget start\n"
    )
    assert shell("budget", "start") == "Spending is allowed.\n"
    assert answering.commands("spending") == [
        {"stopped": True, "reason": "too dear"},
        {"stopped": False, "reason": ""},
    ]


def test_a_refusal_of_the_coordinator_is_an_error_of_one_line(shell: Shell, answering: AnsweringCoordinator) -> None:
    answering.replies["manage_limit"] = lambda sent: f"limit: there is no limit {sent['limit']}"
    try:
        assert shell.error("limit", "resume", "x") == "x: limit: there is no limit x"
    finally:
        del answering.replies["manage_limit"]


def test_a_sick_llm_stands_out(shell: Shell) -> None:
    listed = shell("llm", "list")
    assert row(listed, "vega")[3:10] == ["circuit open", "0", "4", "", "", "unknown", "openai-main"]
    assert row(listed, "atlas")[3:10] == ["healthy", "12", "1", "35.2", "4.2", "0.0123 USD", ""]
    on_terminal = shell.on_terminal("llm", "list", COLUMNS="160")
    assert "vega: circuit open: authentication failed, next probe in" in on_terminal
    assert "\x1b[31mcircuit open" in on_terminal
    assert "fluffle llm resume NAME" in on_terminal


def test_an_llm_is_shown_with_its_health(shell: Shell) -> None:
    shown = shell("llm", "show", "vega")
    for text in (
        "Health: +circuit open: authentication failed, next probe 20.*",
        r"Last error: +authentication: invalid key \(20.*\)",
        "Last hour: +0 completed, 4 failed, cost unknown",
        "Price: +unknown",
        "Reserve: +gets tasks when others are busy for more than 1 min 30 s",
        "Limit: +openai-main",
    ):
        assert re.search(f"^{text}$", shown, re.MULTILINE), text
    assert "Price:     3 USD in, 15 USD out, per million tokens" in shell("llm", "show", "atlas")


def test_the_properties_of_an_llm_are_set(shell: Shell, answering: AnsweringCoordinator) -> None:
    options = ("--local", "--no-reserve", "--spill", "auto", "--context-window", "8192", "--abilities", "tools,schema")
    shell("llm", "set", "vega", *options)
    [sent] = answering.commands("manage")
    assert sent == {
        "llm": "vega",
        "local": True,
        "reserve": False,
        "spill": None,
        "context_window": 8192,
        "abilities": ["tools", "schema"],
    }


def test_a_task_is_submitted_with_a_budget_and_needs_and_shows_why_it_waits(
    shell: Shell, answering: AnsweringCoordinator
) -> None:
    def accepted(sent: Any) -> TaskView:
        given = Submission.model_validate_json(json.dumps(sent))
        budget = {**(sent.get("budget") or {}), "spent_usd": 0.12, "spent_tokens": 1500}
        return TaskView(
            id=sent["id"],
            status=Status.PENDING,
            description=given.description,
            priority=4,
            needs=list(given.needs),
            budget=budget,
            waits="closed until 14:32:10 (openai-main: 429)",
            submitted_at=NOW,
        )

    answering.replies["submit"] = accepted
    options = ("--budget", "0.5", "--budget-tokens", "20000", "--on-empty", "wait", "--needs", "tools")
    task_id = shell("task", "submit", "Think", *options).strip()
    [sent] = answering.commands("submit")
    assert sent["budget"] == {"usd": 0.5, "tokens": 20000, "on_empty": "wait"}
    assert sent["needs"] == ["tools"]
    answering.tasks = [accepted(sent)]
    assert row(shell("task", "list"), task_id)[5] == "closed until 14:32:10 (openai-main: 429)"
    shown = shell("task", "show", task_id)
    assert re.search(r"^Waits: +closed until 14:32:10 \(openai-main: 429\)$", shown, re.MULTILINE)
    assert re.search(r"^Budget: +0.12 USD of 0.50 USD, 1,500 of 20,000 tokens; wait when empty$", shown, re.MULTILINE)
    shell("task", "submit", "--json-lines", "-", *options, given='{"description": "a", "budget": {"usd": 2}}\n')
    assert answering.commands("submit")[-1]["budget"] == {"usd": 2}
