"""The other pages in a real browser: chat, questions, LLMs, reports, rejected messages."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import expect

from tests.support.amqp import amqp
from tests.support.browser import Visit
from tests.support.processes import until
from tests.support.shell import Shell
from tests.support.web_site import WebSite, is_marked, mark, status_of


def test_a_chat_shows_the_answer_while_it_is_written(place: WebSite, operator: Visit, viewer: Visit) -> None:
    page = operator.go("/chat/wren")
    page.get_by_label("Message", exact=True).fill("Tell me a *story*")
    page.get_by_role("button", name="Send").click()
    said = page.locator(".message")
    expect(said.first.locator("em")).to_have_text("story")
    written = page.locator(".message.writing")
    expect(written.locator("strong", has_text="part")).to_be_visible()
    expect(written).not_to_contain_text("Second")
    mark(page)
    until(lambda: "conversation=" in page.url, "the conversation is in the URL")
    place.gate("speak").touch()
    expect(said).to_have_count(2)
    expect(said.last).to_contain_text("Second part.")
    expect(written).to_have_count(0)
    assert is_marked(page)

    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    looking = viewer.go(page.url.removeprefix(place.base))
    expect(looking.locator(".message")).to_have_count(2)
    assert looking.locator("#content form").count() == 0


def test_a_task_continues_after_its_question_is_answered(place: WebSite, operator: Visit) -> None:
    page = operator.go("/questions")
    free = place.submit("Paint the fence", "fence", ask="Which **colour**?")
    asked = page.locator(".asking", has_text="Paint the fence")
    expect(asked.locator(".prose strong")).to_have_text("colour")
    asked.get_by_label("Your answer").fill("blue")
    asked.get_by_role("button", name="Answer").click()
    expect(asked).to_have_count(0)
    assert place.client.wait(free, timeout=30)[0].result == "blue"

    choice = place.submit("Paint the door", "door", ask="Red or green?", choices=["red", "green"])
    page = operator.go(f"/tasks/{choice}")
    expect(status_of(page)).to_have_text("input required")
    page.get_by_role("button", name="green").click()
    expect(status_of(page)).to_have_text("completed")
    expect(page.locator(".answer")).to_have_text("green")
    expect(page.locator(".legend")).to_contain_text("waited for a person")


def test_an_llm_is_paused_and_resumed(place: WebSite, operator: Visit) -> None:
    page = operator.go("/llms")
    card = page.locator("[data-llm=cleo]")
    expect(card).to_contain_text("review")
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".status").first).to_have_text("paused")
    assert place.client.llm("cleo").paused
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".status").first).to_have_text("online")


def test_a_report_has_a_chart_and_the_same_csv_as_the_command_line(place: WebSite, operator: Visit) -> None:
    place.done("Report on this", answer="done")
    page = operator.go("/reports?name=custom&group_by=llm&metrics=attempts&metrics=busy_time&metrics=input_tokens")
    expect(page.locator(".chart svg")).to_be_visible()
    expect(page.locator(".figures")).to_contain_text("obi")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    asked = ("report", "--group-by", "llm", "--metrics", "attempts,busy_time,input_tokens", "--format", "csv")
    told = Shell(place.site.url, place.site.state)(*asked)
    assert "obi," in told
    assert Path(download.value.path()).read_text() == told


def test_a_rejected_message_is_shown_with_its_errors_and_requeued_or_dropped(place: WebSite, operator: Visit) -> None:
    page = operator.go("/rejected")
    with amqp(place.site.url) as client:
        client.publish("fluffle.tasks", "submit", b'{"description": "x", "priority": 77}', message_id="bad-1")
    entry = page.locator("[data-id=bad-1]")
    expect(entry).to_contain_text("priority")
    entry.get_by_role("button", name="Requeue").click()
    expect(page.locator(".toast", has_text="Requeued")).to_be_visible()
    expect(entry).to_be_visible()  # what is still wrong with it brings it back
    entry.get_by_role("button", name="Drop").click()
    expect(entry).to_have_count(0)
    assert "bad-1" not in Shell(place.site.url, place.site.state)("rejected", "list")


@pytest.mark.parametrize("path", ["/", "/new", "/llms", "/chat", "/questions", "/reports", "/budgets", "/rejected"])
def test_text_has_contrast_and_a_phone_needs_no_sideways_scrolling(path: str, operator: Visit) -> None:
    operator.page.set_viewport_size({"width": 390, "height": 844})
    page = operator.go(path)
    expect(page.locator("#content > :nth-child(3)")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    faint = Path(__file__).with_name("contrast.js").read_text()
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(faint) == [], scheme
