"""Viewers, forged events and hostile texts on the web page."""

from contextlib import suppress

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect

from fluffle.web.access.auth import Role, set_password
from tests.support.browser import Visit, visit
from tests.support.processes import fluffle, helpers_of, until
from tests.support.web_site import WebSite, row, status_of


def test_a_text_that_takes_long_to_render_is_rendered_in_a_helper_process(place: WebSite, operator: Visit) -> None:
    task_id = place.submit("[" * 100_000)
    page = operator.go(f"/tasks/{task_id}")
    expect(page.locator(".description")).to_contain_text("[" * 20_000)
    assert len(helpers_of(place.web)) == 1


EVIL = """
<script>window.stolen = 1</script>
<img src=x onerror="window.stolen = 2">
<svg onload="window.stolen = 3"></svg>
<iframe src="https://evil.example/"></iframe>

[run](javascript:window.stolen=4) ![pixel](https://evil.example/pixel.png) [good](https://good.example/)

# Heading `</pre><script>window.stolen = 5</script>`
{{ constructor.constructor('window.stolen = 6')() }} ${window.stolen = 7} &lt;script&gt;
"""


def test_a_hostile_answer_runs_and_loads_nothing(place: WebSite, operator: Visit) -> None:
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


def test_a_viewer_sees_everything_without_buttons_to_change_it(place: WebSite, viewer: Visit) -> None:
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
    expect(page.get_by_text("You are a viewer")).to_be_visible()
    assert page.locator("#content form").count() == 0
    place.gate("look").touch()


LISTENERS = """() => Object.entries(mounted_app.elements).flatMap(([id, element]) =>
    (element.events || []).map((event) => ({id: Number(id), listener_id: event.listener_id, type: event.type})))"""


EMIT = """([client, events]) => events.forEach(({id, listener_id}) =>
    window.socket.emit("event", {id, client_id: client, listener_id, args: []}))"""


def test_forged_events_of_a_viewer_change_nothing(place: WebSite, operator: Visit, viewer: Visit) -> None:
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


def test_an_operator_who_becomes_a_viewer_is_sent_to_the_login_and_changes_nothing(place: WebSite) -> None:
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
            expect(page.get_by_role("alert")).to_contain_text("is wrong")
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
