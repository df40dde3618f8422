"""The health of LLMs, rate limits and budgets on the web page, with the answers of a fake coordinator."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, expect

from broker.protocol.spending import BudgetList, BudgetView, LimitList, LimitView
from broker.protocol.status import Status
from broker.protocol.views import HealthView, LastError, LLMView, PriceView, TaskView
from tests.support.answering_coordinator import AnsweringCoordinator, answering_coordinator
from tests.support.browser import WITHIN, Visit, addresses, browser, chromium, visit
from tests.support.processes import fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on

expect.set_options(timeout=WITHIN)
WAITS = "closed until 14:32:10 (openai-main: 429)"


class Place(NamedTuple):
    """A web page with a fake coordinator behind it."""

    answering: AnsweringCoordinator
    browser: Browser
    base: str
    to_work: str
    to_look: str


def sick(**fields: Any) -> LLMView:
    now = datetime.now(UTC)
    health = HealthView(
        state="open",
        why="authentication failed",
        last_error=LastError(type="authentication", message="invalid key <b>x</b>", at=now - timedelta(minutes=3)),
        next_probe=now + timedelta(minutes=9),
        failed=4,
    )
    return LLMView(name="vega", state="online", slots=2, limit="openai-main", health=health, **fields)


def well() -> LLMView:
    health = HealthView(completed=12, failed=1, tokens_per_second=35.2, seconds_per_task=4.2, cost_usd=0.0123)
    return LLMView(name="atlas", state="online", slots=2, price=PriceView(input=3, output=15), health=health)


def limits(state: Literal["open", "closed", "paused"] = "closed") -> LimitList:
    later = datetime.now(UTC) + timedelta(hours=2)
    closed = {"until": later, "why": "429", "tier": "window"} if state == "closed" else {}
    main = LimitView(name="openai-main", state=state, llms=["vega"], running=1, allowed=8, **closed)
    return LimitList(limits=[main, LimitView(name="local", state="open", llms=["atlas"])])


def budgets(spent: float = 16.0, stopped: str | None = None) -> BudgetList:
    now = datetime.now(UTC)
    team = BudgetView(
        name="team",
        usd=20.0,
        per="day",
        state="warning",
        spent_usd=spent,
        reserved_usd=0.5,
        left_usd=19.5 - spent,
        since=now - timedelta(hours=12),
        until=now + timedelta(hours=12),
    )
    guests = BudgetView(name="guests", value="ana", usd=5.0, by="submitter", unknown_runs=3, left_usd=5.0)
    return BudgetList(budgets=[team, guests], stopped=stopped)


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A web page that asks a fake coordinator."""
    chromium()
    folder = tmp_path_factory.mktemp("budgets")
    with (
        site_on(rabbitmq, folder) as site,
        answering_coordinator(site.url) as answering,
        fluffle("web", "--port", "0", url=site.url, state=folder, until="to look") as web,
        browser() as running,
    ):
        yield Place(answering, running, *addresses(web))


@pytest.fixture(autouse=True)
def coordinator(place: Place) -> AnsweringCoordinator:
    """The fake coordinator with a sick LLM, a closed limit and two budgets."""
    it = place.answering
    it.received.clear()
    it.replies.clear()
    it.llms, it.limits, it.budgets = [well(), sick()], limits(), budgets()
    it.tasks = [
        TaskView(
            id="t-1",
            status=Status.PENDING,
            description="Think",
            priority=4,
            submitted_at=datetime.now(UTC),
            waits=WAITS,
            needs=["tools"],
            budget={"usd": 0.5, "spent_usd": 0.12, "on_empty": "ask"},
        )
    ]
    return it


@pytest.fixture
def operator(place: Place) -> Iterator[Visit]:
    """Somebody who may do everything."""
    with visit(place.browser, place.base, place.to_work) as visitor:
        yield visitor


@pytest.fixture
def viewer(place: Place) -> Iterator[Visit]:
    """Somebody who may only look."""
    with visit(place.browser, place.base, place.to_look) as visitor:
        yield visitor


def test_a_sick_llm_stands_out_and_is_resumed(coordinator: AnsweringCoordinator, operator: Visit) -> None:
    page = operator.go("/llms")
    card = page.locator("[data-llm=vega]")
    expect(card.locator(".llm-head .status").nth(1)).to_have_text("circuit open")
    expect(card.locator(".why")).to_contain_text("authentication failed, next probe in")
    expect(card.locator(".last-error")).to_contain_text("invalid key <b>x</b>")
    expect(card.locator(".last-hour")).to_have_text("Last hour: 0 completed, 4 failed, cost unknown")
    expect(card).to_contain_text("price unknown")
    healthy = page.locator("[data-llm=atlas]")
    expect(healthy.locator(".last-hour")).to_contain_text("35.2 tokens/s, 4.2 s a task, cost 0.0123 USD")
    assert healthy.locator(".why").count() == 0
    coordinator.replies["manage"] = lambda sent: well().model_copy(update={"name": sent["llm"]})
    card.get_by_role("button", name="Resume").click()
    until(lambda: coordinator.commands("manage") == [{"llm": "vega", "paused": False}], "vega is resumed")
    expect(card.locator(".why")).to_have_count(0)


def test_the_figures_of_the_last_hour_change_without_a_new_button(
    coordinator: AnsweringCoordinator, operator: Visit
) -> None:
    page = operator.go("/llms")
    card = page.locator("[data-llm=atlas]")
    pause = card.get_by_role("button", name="Pause")
    pause.focus()
    busier = well().health.model_copy(update={"completed": 13})
    coordinator.llms = [well().model_copy(update={"health": busier}), sick()]
    expect(card.locator(".last-hour")).to_contain_text("13 completed")
    expect(pause).to_be_focused()


def test_budgets_have_bars_and_a_forecast_and_follow_what_is_spent(
    coordinator: AnsweringCoordinator, operator: Visit
) -> None:
    page = operator.go("/budgets")
    team = page.locator("#team")
    expect(team.locator(".status")).to_have_text("nearly used up")
    bar = team.get_by_role("img")
    expect(bar).to_have_attribute("aria-label", "Of 20.00 USD: 16.00 USD spent, 0.50 USD reserved, 3.50 USD left")
    expect(team.locator(".forecast")).to_contain_text("USD")
    expect(team.locator(".forecast .badge")).to_have_text("more than the budget")
    guests = page.locator("#guests-ana")
    expect(guests).to_contain_text("3 runs of unknown cost")
    expect(guests.locator(".legend [data-kind=spent] strong")).to_have_text("unknown")
    assert "0.0000" not in page.locator("#content").inner_text()
    team.get_by_label("Raise by").fill("7")
    coordinator.budgets = budgets(spent=18.0)
    coordinator.tell("budget.warning", "team", why="80 % are used", at="1")
    expect(bar).to_have_attribute("aria-label", "Of 20.00 USD: 18.00 USD spent, 0.50 USD reserved, 1.50 USD left")
    expect(team.get_by_label("Raise by")).to_have_value("7")


def test_an_operator_raises_a_budget(coordinator: AnsweringCoordinator, operator: Visit) -> None:
    page = operator.go("/budgets")
    for number, card in enumerate(("#team", "#guests-ana"), 1):
        page.locator(card).get_by_label("Raise by").fill("2.5")
        page.locator(card).get_by_role("button", name="Raise").click()
        until(lambda: len(coordinator.commands("manage_budget")) == number, "the budget is raised")  # noqa: B023
    page = operator.go("/tasks/t-1")
    page.get_by_label("Raise by").fill("0.25")
    page.get_by_role("button", name="Raise").click()
    expect(page.locator(".toast").last).to_contain_text("raised")
    assert coordinator.commands("manage_budget") == [
        {"budget": "team", "raise_usd": 2.5},
        {"budget": "guests", "raise_usd": 2.5, "value": "ana"},
        {"budget": "task:t-1", "raise_usd": 0.25},
    ]


def test_an_operator_stops_all_spending_and_allows_it_again(coordinator: AnsweringCoordinator, operator: Visit) -> None:
    def switch(sent: Any) -> BudgetList:
        coordinator.budgets = budgets(stopped=sent["reason"] if sent["stopped"] else None)
        return coordinator.budgets

    coordinator.replies["spending"] = switch
    page = operator.go("/budgets")
    page.get_by_label("Reason").fill("too dear")
    page.get_by_role("button", name="Stop all spending").click()
    expect(page.locator(".stopped")).to_contain_text("too dear")
    page.get_by_role("button", name="Allow spending").click()
    expect(page.locator(".stopped")).to_have_count(0)
    assert [sent["stopped"] for sent in coordinator.commands("spending")] == [True, False]


def test_a_limit_is_shown_with_why_and_until_and_is_resumed_and_paused(
    coordinator: AnsweringCoordinator, operator: Visit
) -> None:
    def manage(sent: Any) -> LimitView:
        coordinator.limits = limits("paused" if sent["paused"] else "open")
        return coordinator.limits.limits[0]

    coordinator.replies["manage_limit"] = manage
    page = operator.go("/budgets")
    card = page.locator("#openai-main")
    expect(card.locator(".status")).to_have_text("closed")
    expect(card.locator(".why")).to_contain_text("429, opens in 1 h")
    expect(card.get_by_role("link", name="vega")).to_have_attribute("href", "/llms#vega")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".status")).to_have_text("open")
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".status")).to_have_text("paused")
    assert [sent["paused"] for sent in coordinator.commands("manage_limit")] == [False, True]


def test_a_viewer_sees_budgets_and_limits_without_buttons(coordinator: AnsweringCoordinator, viewer: Visit) -> None:
    page = viewer.go("/budgets")
    expect(page.locator("#team")).to_contain_text("3.50 USD")
    expect(page.locator("#openai-main")).to_contain_text("429")
    assert page.locator("#content button, #content form, .actions button").count() == 0
    page = viewer.go("/llms")
    expect(page.locator("[data-llm=vega] .why")).to_be_visible()
    assert page.locator("#content button").count() == 0


LISTENERS = """() => Object.entries(mounted_app.elements).flatMap(([id, element]) =>
    (element.events || []).map((event) => ({id: Number(id), listener_id: event.listener_id, type: event.type})))"""
EMIT = """([client, events]) => events.forEach(({id, listener_id}) =>
    window.socket.emit("event", {id, client_id: client, listener_id, args: []}))"""


def test_forged_events_of_a_viewer_change_no_budget(
    coordinator: AnsweringCoordinator, operator: Visit, viewer: Visit
) -> None:
    page = operator.go("/budgets")
    expect(page.get_by_role("button", name="Stop all spending")).to_be_visible()
    expect(page.locator("#openai-main").get_by_role("button", name="Resume")).to_be_visible()
    theirs = page.evaluate(LISTENERS)
    forger = viewer.go("/budgets")
    for client in (page.evaluate("window.clientId"), forger.evaluate("window.clientId")):
        forger.evaluate(EMIT, [client, theirs])
    forger.evaluate("new Promise(done => setTimeout(done, 300))")
    assert coordinator.received == []
    page.evaluate(EMIT, [page.evaluate("window.clientId"), theirs])  # the same from the operator's own page does it
    until(lambda: coordinator.commands("manage_limit"), "the limit is changed")


def test_a_task_shows_what_it_waits_for_and_its_budget(coordinator: AnsweringCoordinator, viewer: Visit) -> None:
    page = viewer.go("/")
    expect(page.locator('tr[data-id="t-1"]')).to_contain_text(WAITS)
    page = viewer.go("/tasks/t-1")
    expect(page.locator(".task-status")).to_contain_text(WAITS)
    expect(page.locator(".facts")).to_contain_text("0.12 USD of 0.50 USD; ask when empty")
    [task] = coordinator.tasks
    coordinator.tasks = [task.model_copy(update={"waits": "for a free slot of atlas"})]
    coordinator.tell("limit.opened", "openai-main", why="the time is over", at="2")
    expect(page.locator(".task-status")).to_contain_text("waiting for a free slot of atlas")


def test_news_about_llms_limits_and_budgets_are_one_notice_each(
    coordinator: AnsweringCoordinator, viewer: Visit
) -> None:
    page = viewer.go("/")
    for at in range(20):
        coordinator.tell("llm.circuit_open", "vega", why="authentication failed", at=str(at))
        coordinator.tell("limit.closed", "openai-main", why="429", tier="throttle", at=str(at))
    coordinator.tell("limit.closed", "openai-main", why="5 hours are used up", tier="window", at="window")
    coordinator.tell("budget.empty", "team", why="20 USD are spent", at="empty")
    expect(page.locator(".toast", has_text="The budget team is used up")).to_be_visible()
    page.get_by_role("button", name="Notices").click()
    titles = [it.inner_text() for it in page.locator(".notices .notice strong").all()]
    assert titles.count("vega gets no tasks: it fails") == 1
    assert titles.count("The limit openai-main is closed for hours") == 1
    assert page.locator(".notices .notice", has_text="vega").get_attribute("href") == "/llms#vega"


@pytest.mark.parametrize("path", ["/budgets", "/llms", "/"])
def test_text_has_contrast_and_a_phone_needs_no_sideways_scrolling(path: str, operator: Visit) -> None:
    operator.page.set_viewport_size({"width": 390, "height": 844})
    page = operator.go(path)
    expect(page.locator("#content").get_by_text("openai-main").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    faint = Path(__file__).with_name("contrast.js").read_text()
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(faint) == [], scheme
