"""The web page while the coordinator or RabbitMQ is unavailable."""

import pytest
from playwright.sync_api import expect

from tests.support.browser import Visit
from tests.support.web_site import WebSite, is_marked, mark, row


def test_the_page_warns_while_the_coordinator_is_gone(place: WebSite, operator: Visit) -> None:
    page = operator.go("/?label=outage")
    mark(page)
    banner = page.get_by_role("alert")
    expect(banner).not_to_be_visible()
    place.site.coordinators[-1].kill()
    expect(banner).to_contain_text("No coordinator answers")
    place.site.coordinator()
    expect(banner).not_to_be_visible()
    task_id = place.submit("Welcome back", "outage", answer="thanks")
    expect(row(page, task_id)).to_contain_text("completed")
    assert is_marked(page)


def test_the_page_warns_while_rabbitmq_is_gone(place: WebSite, operator: Visit) -> None:
    node = place.site.rabbitmq.node
    if node is None:
        pytest.skip("this broker is not ours to stop")
    page = operator.go("/?label=flood")
    mark(page)
    banner = page.get_by_role("alert")
    expect(banner).not_to_be_visible()
    node.stop()
    try:
        expect(banner).to_contain_text("RabbitMQ is unavailable")
    finally:
        node.start()
    expect(banner).not_to_be_visible()
    task_id = place.submit("Welcome back", "flood", answer="thanks")
    expect(row(page, task_id)).to_contain_text("completed")
    assert is_marked(page)


def test_a_page_opened_without_a_coordinator_fills_when_the_coordinator_is_back(
    place: WebSite, operator: Visit
) -> None:
    task_id = place.done("Be seen later", "later", answer="here")
    place.site.coordinators[-1].kill()
    page = operator.go("/?label=later")
    expect(page.get_by_role("alert")).to_contain_text("No coordinator answers")
    place.site.coordinator()
    expect(row(page, task_id)).to_be_visible()
