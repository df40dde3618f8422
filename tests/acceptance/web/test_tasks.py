"""The task pages in a real browser: list, filters, one task, actions."""

import json

from playwright.sync_api import expect

from broker.protocol.task_requests import Submission
from tests.support.browser import Visit
from tests.support.processes import until
from tests.support.web_site import TEXT, WebSite, is_marked, mark, row, status_of


def test_a_submitted_task_finishes_without_a_reload(place: WebSite, operator: Visit) -> None:
    gate = place.gate("submitted")
    page = operator.go("/new")
    page.get_by_label("Description").fill("Write a limerick")
    page.get_by_label("Input: text or JSON").fill(json.dumps({"until": str(gate), "answer": "There **was** a rabbit"}))
    page.get_by_label("Skills").fill("obey")
    expect(page.locator("[data-preview]")).to_contain_text("obi")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/tasks/*")
    expect(status_of(page)).to_have_text("in progress")
    mark(page)
    gate.touch()
    expect(status_of(page)).to_have_text("completed")
    expect(page.locator(".answer strong")).to_have_text("was")
    expect(page.locator(".attempts")).to_contain_text("Why this LLM: the only LLM with obey")
    expect(page.locator(".attempts")).to_contain_text("3 tokens in, 5 tokens out")
    assert is_marked(page)
    expect(page.locator(".toast[data-kind=finished]")).to_contain_text("A task finished")


def test_the_list_updates_without_a_reload(place: WebSite, operator: Visit) -> None:
    gate = place.gate("followed")
    page = operator.go("/?label=follow")
    expect(page.get_by_text("No tasks match")).to_be_visible()
    mark(page)
    task_id = place.submit("Wait a while", "follow", until=str(gate))
    expect(row(page, task_id)).to_contain_text("in progress")
    gate.touch()
    expect(row(page, task_id)).to_contain_text("completed")
    assert is_marked(page)


def test_two_selected_tasks_are_assigned_to_an_llm(place: WebSite, operator: Visit) -> None:
    both = [place.submit(f"Fold paper {n}", "paper", skill="origami", text=TEXT) for n in (1, 2)]
    other = place.submit("Fold paper 3", "paper", skill="origami")
    page = operator.go("/?label=paper")
    for task_id in both:
        row(page, task_id).get_by_role("checkbox").check()
    bulk = page.get_by_role("form", name="Selected tasks")
    expect(bulk).to_contain_text("2 selected")
    bulk.get_by_label("LLM to assign to").select_option("ada")
    bulk.get_by_role("button", name="Assign").click()
    for task_id in both:
        expect(row(page, task_id)).to_contain_text("completed")
        expect(row(page, task_id)).to_contain_text("ada")
    expect(row(page, other)).to_contain_text("pending")
    expect(page.locator(".toast", has_text="2 tasks assigned to ada")).to_be_visible()
    place.client.cancel(other)


def test_a_failure_is_one_notice_and_the_task_is_retried_from_there(place: WebSite, operator: Visit) -> None:
    page = operator.go("/llms")
    task_id = place.submit("Open the safe", fail="the key broke")
    notice = page.locator(".toast[data-kind=failed]")
    expect(notice).to_contain_text("A task failed")
    expect(notice).to_have_count(1)
    expect(page.locator(".bell .count")).to_have_text("1")
    notice.get_by_role("link").click()
    expect(page.locator(".failure")).to_contain_text("the key broke")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".attempts > li")).to_have_count(2)
    expect(status_of(page)).to_have_text("failed")
    assert [attempt.outcome for attempt in place.client.task(task_id).attempts] == ["failed", "failed"]
    page.get_by_role("button", name="Notices").click()
    expect(page.locator("#notices .notice[data-kind=failed]").first).to_contain_text("Open the safe")


def test_a_task_is_moved_and_cancelled_from_its_page(place: WebSite, operator: Visit) -> None:
    gate = place.gate("never")
    task_id = place.submit("Wait for ever", until=str(gate))
    page = operator.go(f"/tasks/{task_id}")
    expect(status_of(page)).to_have_text("in progress")
    page.get_by_label("LLM", exact=True).select_option("cleo")
    page.get_by_role("button", name="Reassign").click()
    expect(page.locator(".attempts > li")).to_have_count(2)
    assert place.llms_of(task_id) == ["obi", "cleo"]

    other = place.submit("Wait for ever again", until=str(gate))
    page = operator.go(f"/tasks/{other}")
    expect(status_of(page)).to_have_text("in progress")
    page.get_by_role("button", name="Cancel").click()
    expect(status_of(page)).to_have_text("cancelled")


def test_the_earlier_result_of_a_retried_task_is_shown_with_its_attempt(place: WebSite, operator: Visit) -> None:
    task_id = place.done("Answer twice", answer="the first answer")
    place.client.retry(task_id, inputs={"answer": "the second answer"})
    place.client.wait(task_id, timeout=60)
    page = operator.go(f"/tasks/{task_id}")
    attempts = page.locator(".attempts > li")
    expect(attempts).to_have_count(2)
    attempts.last.get_by_text("Result before the task was retried").click()
    expect(attempts.last).to_contain_text("the first answer")
    expect(page.locator(".answer")).to_have_text("the second answer")


def test_the_parts_of_a_task_are_shown_with_it(place: WebSite, operator: Visit) -> None:
    whole = place.client.submit("Read this together", assignees=["ada", "ben"], mode="all", inputs={"text": TEXT})
    page = operator.go(f"/tasks/{whole.id}")
    expect(page.locator(".parts li")).to_have_count(2)
    expect(page.locator(".parts")).to_contain_text("ben")
    expect(status_of(page)).to_have_text("completed")


def test_a_filter_is_in_the_url_and_survives_a_reload(place: WebSite, operator: Visit) -> None:
    good = place.done("Count the carrots", "garden", answer=3)
    bad = place.done("Count the stars", "garden", fail="too many")
    waiting = place.submit("Count the carrots tomorrow", "garden", skill="counting")
    page = operator.go("/")
    search = page.get_by_role("search")
    search.get_by_label("Label").fill("garden")
    for name in ("completed", "pending"):
        search.get_by_text(name, exact=True).click()
    search.get_by_label("Search").fill("carrots")
    expect(page.locator("tbody tr")).to_have_count(2)
    until(lambda: "text=carrots" in page.url, "the filter is in the URL")
    assert "?status=pending&status=completed&label=garden&text=carrots" in page.url

    page.reload()
    expect(page.locator("tbody tr")).to_have_count(2)
    assert [line.get_attribute("data-id") for line in page.locator("tbody tr").all()] == [waiting, good]
    expect(search.get_by_label("completed")).to_be_checked()
    expect(search.get_by_label("failed")).not_to_be_checked()
    expect(search.get_by_label("Search")).to_have_value("carrots")
    page.get_by_label("Search").fill("")
    search.get_by_text("pending", exact=True).click()
    search.get_by_text("completed", exact=True).click()
    expect(row(page, bad)).to_be_visible()
    place.client.cancel(waiting)


def test_a_long_list_has_pages_and_back_returns_to_the_first(place: WebSite, operator: Visit) -> None:
    leaves = [Submission(id=f"leaf-{n}", description=f"Leaf {n}", skills=["nobody"]) for n in range(60)]
    assert len(list(place.client.submit_many(leaves))) == 60
    page = operator.go("/?text=Leaf")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(row(page, "leaf-0")).to_be_visible()
    page.go_back()
    expect(row(page, "leaf-59")).to_be_visible()
    for leaf in leaves:
        place.client.cancel(str(leaf.id))


def test_the_page_works_with_the_keyboard(place: WebSite, operator: Visit) -> None:
    task_id = place.done("Find me by keys", "keys", answer="found")
    page = operator.go("/")
    page.keyboard.press("/")
    page.keyboard.type("by keys")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.keyboard.press("Tab")
    for _ in range(6):
        if page.evaluate("document.activeElement.textContent") == "Find me by keys":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/tasks/{task_id}")
    expect(page.locator(".answer")).to_have_text("found")
