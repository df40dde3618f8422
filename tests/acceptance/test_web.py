"""The web page in a real browser, on real processes: broker, coordinator, LLMs."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import Error as PlaywrightError

from broker.protocol.task_requests import Submission
from fluffle import SyncClient
from fluffle.web.access.auth import Role, set_password
from tests.support.amqp import amqp
from tests.support.browser import WITHIN, Visit, addresses, browser, chromium, visit
from tests.support.processes import Process, fluffle, helpers_of, until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on

expect.set_options(timeout=WITHIN)

TEXT = "A fluffle is a group of rabbits. It digs. Rabbits dig holes in the ground. The holes are warm and dry."


class Place:
    """A site with a coordinator, three demo LLMs, one that obeys the inputs of its tasks, and the web page."""

    def __init__(self, site: Site, web: Process, client: SyncClient, running: Browser) -> None:
        self.site = site
        self.web = web
        self.client = client
        self.browser = running
        self.base, self.to_work, self.to_look = addresses(web)

    def submit(self, description: str, *labels: str, skill: str = "obey", **inputs: Any) -> str:
        """The id of a new task. The LLM with the skill `obey` does what the inputs say."""
        return self.client.submit(description, labels=list(labels), skills=[skill], inputs=inputs or None).id

    def done(self, description: str, *labels: str, **inputs: Any) -> str:
        """The same, when it is over."""
        task_id = self.submit(description, *labels, **inputs)
        self.client.wait(task_id, timeout=60)
        return task_id

    def llms_of(self, task_id: str) -> list[str]:
        """Who has tried the task."""
        return [attempt.llm for attempt in self.client.task(task_id).attempts]

    def gate(self, name: str) -> Path:
        """A file that does not exist yet."""
        return self.site.state / name


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One place for all tests: they have different tasks."""
    chromium()
    folder = tmp_path_factory.mktemp("web")
    with site_on(rabbitmq, folder) as site:
        site.coordinator()
        site.worker("ada", "--model", "demo", "--skills", "summarise=1.0")
        site.worker("ben", "--model", "demo", "--skills", "summarise=0.8,edit", "--slots", "2")
        site.worker("cleo", "--model", "demo", "--skills", "review")
        site.worker("obi", "--handler", "tests.support.scripted_llm:obey", "--skills", "obey", "--slots", "8")
        # The browser comes last: while it runs, so does an event loop.
        # What it writes comes in two parts, the second when the file is there.
        speak = f"sh -c 'echo First **part**.; while [ ! -e {folder}/speak ]; do sleep 0.05; done; echo Second part.'"
        site.worker("wren", "--exec", speak, "--slots", "2")
        with (
            fluffle("web", "--port", "0", url=site.url, state=folder, until="to look") as web,
            SyncClient(site.url, user="tess") as client,
            browser() as running,
        ):
            yield Place(site, web, client, running)


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


def mark(page: Page) -> None:
    """Leave something in the page that a reload would lose."""
    page.evaluate("window.marked = true")


def is_marked(page: Page) -> bool:
    """Whether the page was not loaded again."""
    return bool(page.evaluate("window.marked === true"))


def row(page: Page, task_id: str) -> Locator:
    """The line of a task in the list."""
    return page.locator(f'tr[data-id="{task_id}"]')


def status_of(page: Page) -> Locator:
    """The state that the page of a task shows."""
    return page.locator(".task-status .status")


def test_a_text_that_takes_long_to_render_is_rendered_by_another_process_than_the_page(
    place: Place, operator: Visit
) -> None:
    task_id = place.submit("[" * 100_000)
    page = operator.go(f"/tasks/{task_id}")
    expect(page.locator(".description")).to_contain_text("[" * 20_000)
    assert len(helpers_of(place.web)) == 1


def test_a_task_is_submitted_and_finishes_before_ones_eyes(place: Place, operator: Visit) -> None:
    gate = place.gate("submitted")
    page = operator.go("/new")
    page.get_by_label("What is to be done").fill("Write a limerick")
    page.get_by_label("Text or JSON").fill(json.dumps({"until": str(gate), "answer": "There **was** a rabbit"}))
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


def test_a_list_follows_what_happens(place: Place, operator: Visit) -> None:
    gate = place.gate("followed")
    page = operator.go("/?label=follow")
    expect(page.get_by_text("No task fits")).to_be_visible()
    mark(page)
    task_id = place.submit("Wait a while", "follow", until=str(gate))
    expect(row(page, task_id)).to_contain_text("in progress")
    gate.touch()
    expect(row(page, task_id)).to_contain_text("completed")
    assert is_marked(page)


def test_two_selected_tasks_are_assigned_to_an_llm(place: Place, operator: Visit) -> None:
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
    expect(page.locator(".toast", has_text="2 tasks given to ada")).to_be_visible()
    place.client.cancel(other)


def test_a_failure_is_one_notice_and_the_task_is_retried_from_there(place: Place, operator: Visit) -> None:
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


def test_a_task_is_moved_and_cancelled_from_its_page(place: Place, operator: Visit) -> None:
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


def test_the_earlier_result_of_a_retried_task_is_shown_with_its_attempt(place: Place, operator: Visit) -> None:
    task_id = place.done("Answer twice", answer="the first answer")
    place.client.retry(task_id, inputs={"answer": "the second answer"})
    place.client.wait(task_id, timeout=60)
    page = operator.go(f"/tasks/{task_id}")
    attempts = page.locator(".attempts > li")
    expect(attempts).to_have_count(2)
    attempts.last.get_by_text("Its result, before the task was retried").click()
    expect(attempts.last).to_contain_text("the first answer")
    expect(page.locator(".answer")).to_have_text("the second answer")


def test_the_parts_of_a_task_are_shown_with_it(place: Place, operator: Visit) -> None:
    whole = place.client.submit("Read this together", assignees=["ada", "ben"], mode="all", inputs={"text": TEXT})
    page = operator.go(f"/tasks/{whole.id}")
    expect(page.locator(".parts li")).to_have_count(2)
    expect(page.locator(".parts")).to_contain_text("ben")
    expect(status_of(page)).to_have_text("completed")


def test_a_filter_stands_in_the_url_and_shows_the_same_after_a_reload(place: Place, operator: Visit) -> None:
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


def test_a_long_list_comes_page_by_page_and_the_way_back_leads_back(place: Place, operator: Visit) -> None:
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


def test_a_chat_shows_the_answer_while_it_is_written(place: Place, operator: Visit, viewer: Visit) -> None:
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


def test_a_question_is_answered_and_the_task_goes_on(place: Place, operator: Visit) -> None:
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


def test_an_llm_is_paused_and_resumed(place: Place, operator: Visit) -> None:
    page = operator.go("/llms")
    card = page.locator("[data-llm=cleo]")
    expect(card).to_contain_text("review")
    card.get_by_role("button", name="Pause").click()
    expect(card.locator(".status").first).to_have_text("paused")
    assert place.client.llm("cleo").paused
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".status").first).to_have_text("online")


def test_a_report_has_a_chart_and_its_csv_is_that_of_the_command_line(place: Place, operator: Visit) -> None:
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


def test_rejected_input_is_shown_with_its_errors_and_sent_back_or_dropped(place: Place, operator: Visit) -> None:
    page = operator.go("/rejected")
    with amqp(place.site.url) as client:
        client.publish("fluffle.tasks", "submit", b'{"description": "x", "priority": 77}', message_id="bad-1")
    entry = page.locator("[data-id=bad-1]")
    expect(entry).to_contain_text("priority")
    entry.get_by_role("button", name="Send back").click()
    expect(page.locator(".toast", has_text="Sent back")).to_be_visible()
    expect(entry).to_be_visible()  # what is still wrong with it brings it back
    entry.get_by_role("button", name="Drop").click()
    expect(entry).to_have_count(0)
    assert "bad-1" not in Shell(place.site.url, place.site.state)("rejected", "list")


EVIL = """
<script>window.stolen = 1</script>
<img src=x onerror="window.stolen = 2">
<svg onload="window.stolen = 3"></svg>
<iframe src="https://evil.example/"></iframe>

[run](javascript:window.stolen=4) ![pixel](https://evil.example/pixel.png) [good](https://good.example/)

# Heading `</pre><script>window.stolen = 5</script>`
{{ constructor.constructor('window.stolen = 6')() }} ${window.stolen = 7} &lt;script&gt;
"""


def test_an_answer_full_of_tricks_does_nothing_and_loads_nothing(place: Place, operator: Visit) -> None:
    task_id = place.done(f"Be evil {EVIL}", "evil", answer=EVIL, other={"x": EVIL})
    page = operator.go(f"/tasks/{task_id}")
    answer = page.locator(".answer")
    expect(answer.locator("h1")).to_be_visible()
    assert answer.locator("script, img, svg, iframe").count() == 0
    links = [link.get_attribute("href") for link in answer.locator("a").all()]
    assert links == ["https://evil.example/pixel.png", "https://good.example/"]
    page.get_by_text("Inputs", exact=True).click()
    for shown in page.locator(".answer, .description, .inputs").all():
        shown.hover()
    page = operator.go("/?label=evil")
    expect(row(page, task_id)).to_be_visible()
    assert page.evaluate("window.stolen") is None
    # And were one of them to get into the page, the policy would stop it.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.stolen = 8\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.stolen = 9'}))")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("window.stolen") is None
    operator.complaints = [told for told in operator.complaints if "Content Security Policy" not in told]


def test_a_viewer_sees_everything_and_finds_nothing_to_change(place: Place, viewer: Visit) -> None:
    task_id = place.submit("Look at me", until=str(place.gate("look")))
    page = viewer.go(f"/tasks/{task_id}")
    expect(status_of(page)).to_have_text("in progress")
    assert page.locator(".actions button, .actions select, #content form").count() == 0
    page = viewer.go("/")
    expect(row(page, task_id)).to_be_visible()
    assert page.locator(".pick, .bulk, a[href='/new']").count() == 0
    page = viewer.go("/llms")
    expect(page.locator("[data-llm=ada]")).to_be_visible()
    assert page.locator("#content button").count() == 0
    page = viewer.go("/new")
    expect(page.get_by_text("You may look")).to_be_visible()
    assert page.locator("#content form").count() == 0
    place.gate("look").touch()


LISTENERS = """() => Object.entries(mounted_app.elements).flatMap(([id, element]) =>
    (element.events || []).map((event) => ({id: Number(id), listener_id: event.listener_id, type: event.type})))"""
EMIT = """([client, events]) => events.forEach(({id, listener_id}) =>
    window.socket.emit("event", {id, client_id: client, listener_id, args: []}))"""


def test_forged_events_of_a_viewer_change_nothing(place: Place, operator: Visit, viewer: Visit) -> None:
    def is_paused() -> bool:
        return place.client.llm("ben").paused

    page = operator.go("/llms")
    expect(page.locator("[data-llm=ben]").get_by_role("button", name="Pause")).to_be_visible()
    button = page.locator("[data-llm=ben]").get_by_role("button", name="Pause").get_attribute("id")
    assert button is not None
    pause = [event for event in page.evaluate(LISTENERS) if event["id"] == int(button[1:])]
    assert pause
    operator_page = page.evaluate("window.clientId")

    forger = viewer.go("/llms")
    own = forger.evaluate(LISTENERS)
    for client in (operator_page, forger.evaluate("window.clientId")):
        forger.evaluate(EMIT, [client, [*pause, *own]])
        forger.evaluate(
            "([client, tab]) => new Promise(done => window.socket.emit('handshake',"
            " {client_id: client, tab_id: tab, document_id: 'x', next_message_id: 0}, done))",
            [operator_page, "x"],
        )
        forger.evaluate(EMIT, [client, [*pause, *own]])
    forger.evaluate("new Promise(done => setTimeout(done, 300))")
    assert not is_paused()
    page.evaluate(EMIT, [operator_page, pause])  # the same from the operator's own page does it
    until(is_paused, "ben is paused")
    place.client.resume("ben")


def test_an_operator_who_becomes_a_viewer_is_sent_to_the_login_and_changes_nothing(place: Place) -> None:
    people = place.gate("people")
    set_password(people, "ana", Role.OPERATOR, "carrots")
    options = ("--port", "0", "--password-file", str(people))
    with fluffle("web", *options, url=place.site.url, state=place.site.state, until="ready at") as web:
        base = web.output.split()[-1].rstrip("/")
        with visit(place.browser, base, f"{base}/login?next=/llms") as ana:
            page = ana.page
            page.get_by_label("Name").fill("ana")
            page.get_by_label("Password").fill("carots")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text("not right")
            page.get_by_label("Name").fill("ana")
            page.get_by_label("Password").fill("carrots")
            page.get_by_role("button", name="Log in").click()
            pause = page.locator("[data-llm=cleo]").get_by_role("button", name="Pause")
            expect(pause).to_be_visible()
            set_password(people, "ana", Role.VIEWER, "carrots")
            with suppress(PlaywrightError):  # the page may be closed before the click reaches the button
                pause.click(timeout=2_000)
            expect(page.get_by_role("button", name="Log in")).to_be_visible()
    assert not place.client.llm("cleo").paused


def test_a_coordinator_that_is_killed_is_missed_and_welcomed_back(place: Place, operator: Visit) -> None:
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


def test_a_rabbitmq_that_is_away_is_missed_and_welcomed_back(place: Place, operator: Visit) -> None:
    node = place.site.rabbitmq.node
    if node is None:
        pytest.skip("this broker is not ours to stop")
    page = operator.go("/?label=flood")
    mark(page)
    banner = page.get_by_role("alert")
    expect(banner).not_to_be_visible()
    node.stop()
    try:
        expect(banner).to_contain_text("RabbitMQ is away")
    finally:
        node.start()
    expect(banner).not_to_be_visible()
    task_id = place.submit("Welcome back", "flood", answer="thanks")
    expect(row(page, task_id)).to_contain_text("completed")
    assert is_marked(page)


def test_a_page_that_is_opened_while_the_coordinator_is_away_fills_when_it_is_back(
    place: Place, operator: Visit
) -> None:
    task_id = place.done("Be seen later", "later", answer="here")
    place.site.coordinators[-1].kill()
    page = operator.go("/?label=later")
    expect(page.get_by_role("alert")).to_contain_text("No coordinator answers")
    place.site.coordinator()
    expect(row(page, task_id)).to_be_visible()


def test_all_of_it_can_be_done_with_the_keyboard(place: Place, operator: Visit) -> None:
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


@pytest.mark.parametrize("path", ["/", "/new", "/llms", "/chat", "/questions", "/reports", "/rejected"])
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
