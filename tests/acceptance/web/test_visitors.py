"""Who may be on the web page, and for how long: logins, sessions, sockets, and connections without end."""

import asyncio
import json
import re
import socket
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from playwright.sync_api import Browser, expect

from fluffle.web.access.auth import Role, set_password
from fluffle.web.access.connections import HEADERS_TIMEOUT_SECONDS
from tests.support.browser import WITHIN, Visit, browser, chromium
from tests.support.processes import Process, fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site, site_on

expect.set_options(timeout=WITHIN)

T = TypeVar("T")

PEOPLE = {"ana": Role.OPERATOR, "ben": Role.VIEWER, "cleo": Role.OPERATOR, "dan": Role.OPERATOR}
FEW_FILES = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")


class Place:
    """A coordinator and the web page, with a password file. Everybody's password is the own name, backwards."""

    def __init__(self, site: Site, web: Process, people: Path) -> None:
        self.site = site
        self.web = web
        self.people = people
        self.base = base_of(web)

    def visitor(self) -> httpx.Client:
        """A browser without a window that nobody knows yet."""
        return httpx.Client(base_url=self.base, headers={"origin": self.base}, timeout=60)

    @contextmanager
    def logged_in(self, name: str) -> Iterator[httpx.Client]:
        """The same, logged in."""
        with self.visitor() as client:
            assert log_in(client, name, name[::-1]) == 303
            yield client


def base_of(web: Process) -> str:
    return web.output.split("web: ready at ")[1].split()[0].rstrip("/")


def run(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns. It gets a thread, because the browser has an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def log_in(client: httpx.Client, name: str, password: str) -> int:
    """The status of the answer."""
    return client.post("/login", data={"name": name, "secret": password}).status_code


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("visitors")
    people = folder / "people"
    for name, role in PEOPLE.items():
        set_password(people, name, role, name[::-1])
    with site_on(rabbitmq, folder / "state") as site:
        site.coordinator()
        options = ("web", "--port", "0", "--password-file", str(people))
        with fluffle(*options, url=site.url, state=site.state, until="ready at") as web:
            yield Place(site, web, people)


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Browser]:
    chromium()
    with browser() as running:
        yield running


def remove(place: Place, name: str) -> None:
    lines = place.people.read_text().splitlines()
    place.people.write_text("\n".join(line for line in lines if not line.startswith(f"{name}:")) + "\n")


# -- sessions ------------------------------------------------------------------------------------------------------


def test_a_logout_ends_the_session_at_the_server(place: Place) -> None:
    with place.logged_in("cleo") as cleo:
        copy = dict(cleo.cookies)
        assert cleo.get("/reports.csv").status_code == 200
        assert cleo.post("/logout").status_code == 303
    with httpx.Client(base_url=place.base, cookies=copy) as thief:
        assert thief.get("/reports.csv").status_code == 401


@pytest.mark.parametrize("what", ["removed", "made a viewer"])
def test_the_open_page_of_somebody_who_loses_rights_is_closed(place: Place, running: Browser, what: str) -> None:
    name = {"removed": "ben", "made a viewer": "dan"}[what]
    frames: list[str] = []
    visit = Visit(running.new_context(), place.base)
    visit.page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: frames.append(str(frame))))
    visit.page.goto(f"{place.base}/login")
    visit.page.get_by_label("Name").fill(name)
    visit.page.get_by_label("Password").fill(name[::-1])
    visit.page.get_by_role("button", name="Log in").click()
    visit.page.wait_for_function("window.did_handshake === true")
    if what == "removed":
        remove(place, name)
    else:
        set_password(place.people, name, Role.VIEWER, name[::-1])
    visit.page.wait_for_url("**/login**")
    Shell(place.site.url, place.site.state)("task", "submit", "TOP-SECRET", "--assignee", "nobody", "--force")
    visit.page.reload()
    expect(visit.page.get_by_role("button", name="Log in")).to_be_visible()
    assert not any("TOP-SECRET" in frame for frame in frames)
    visit.context.close()


# -- sockets -------------------------------------------------------------------------------------------------------


def cookies(client: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


async def handshake(place: Place, client: httpx.Client, page_id: str) -> str:
    """What the server says to a socket that names a page when it is opened: `40…` yes, `44…` no."""
    query = f"EIO=4&transport=websocket&implicit_handshake=true&client_id={page_id}&tab_id=t&document_id=d"
    address = f"{place.base.replace('http', 'ws')}/_nicegui_ws/socket.io/?{query}"
    async with websockets.connect(address, additional_headers={"cookie": cookies(client)}, origin=place.base) as ws:  # type: ignore[arg-type]
        assert str(await ws.recv()).startswith("0")
        await ws.send("40")
        return str(await ws.recv())


def page_of(client: httpx.Client) -> str:
    """The id of a page that this browser has opened."""
    text = client.get("/", headers={"accept": "text/html"}).text
    found = re.search(r"client_id['\"]*\s*[:=]\s*['\"]([0-9a-f-]{36})", text)
    assert found, text[:3000]
    return found[1]


def test_a_socket_belongs_to_its_session_from_the_first_message_on(place: Place) -> None:
    with place.logged_in("ana") as operator, place.logged_in("cleo") as other:
        page = page_of(operator)
        assert run(handshake(place, other, page)).startswith("44")
        assert run(handshake(place, operator, page)).startswith("40")


def test_the_transport_without_sockets_answers_our_own_pages_only(place: Place) -> None:
    path = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    with place.logged_in("ana") as client:
        own = client.get(path)
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        for headers in ({"origin": "http://127.0.0.1:9999"}, {"sec-fetch-site": "same-site", "origin": ""}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


# -- connections ---------------------------------------------------------------------------------------------------


def half_open(base: str) -> socket.socket:
    """A connection with half of a request."""
    parts = urlsplit(base)
    made = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2 * HEADERS_TIMEOUT_SECONDS)
    made.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\nX-Half:")
    return made


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_half_open_requests_keep_nobody_out_and_are_closed_in_time(place: Place) -> None:
    options = ("web", "--port", "0", "--password-file", str(place.people))
    with (
        fluffle(*options, url=place.site.url, state=place.site.state, until="ready at", inside=FEW_FILES) as web,
        ExitStack() as open_ones,
    ):
        base = base_of(web)
        halves = [open_ones.enter_context(half_open(base)) for _ in range(300)]
        assert httpx.get(f"{base}/login", timeout=30).status_code == 200
        until(lambda: all(is_closed(half) for half in halves), "all are closed", within=3 * HEADERS_TIMEOUT_SECONDS)
        assert len(web.output) < 10_000


def test_a_request_that_is_broken_off_leaves_no_traceback(place: Place) -> None:
    parts = urlsplit(place.base)
    head = f"POST /login HTTP/1.1\r\nHost: {parts.netloc}\r\nOrigin: {place.base}\r\nContent-Length: 50\r\n"
    for _ in range(20):
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
            connection.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nname=".encode())
    with place.visitor() as visitor:
        assert visitor.get("/login").status_code == 200
    assert "Traceback" not in place.web.output


def test_malformed_messages_of_a_browser_leave_nothing_in_the_log(place: Place) -> None:
    with place.logged_in("ana") as client:
        page = page_of(client)
        events = [
            ["event"],
            ["event", {"client_id": page}],
            ["event", {"client_id": page, "id": "x", "args": "x"}],
            ["log", {"client_id": page, "level": "error", "message": "WRITTEN-BY-A-VISITOR"}],
            ["javascript_response", {"client_id": page}],
            ["ack", {"client_id": page}],
            ["handshake", {"client_id": [page]}],
        ]
        before = place.web.output

        async def send() -> None:
            query = "EIO=4&transport=websocket"
            address = f"{place.base.replace('http', 'ws')}/_nicegui_ws/socket.io/?{query}"
            headers = {"cookie": cookies(client)}
            async with websockets.connect(address, additional_headers=headers, origin=place.base) as ws:  # type: ignore[arg-type]
                await ws.recv()
                await ws.send("40")
                await ws.recv()
                for event in events:
                    await ws.send(f"42{json.dumps(event)}")
                await ws.send('420["handshake",{"client_id":"nobody"}]')
                while not str(await ws.recv()).startswith("430"):
                    pass  # all before it were handled

        run(send())
        assert place.web.output == before


# -- logins: last, because all come from one address ----------------------------------------------------------------


def test_passwords_tried_at_the_same_time_are_counted_before_they_are_checked(place: Place) -> None:
    """The owner, who has logged in from there before, gets in all the same."""

    async def guess() -> list[int]:
        async with httpx.AsyncClient(base_url=place.base, headers={"origin": place.base}, timeout=60) as client:
            secrets = [*(f"guess-{number}" for number in range(149)), "ana"]
            answers = [client.post("/login", data={"name": "ana", "secret": secret}) for secret in secrets]
            return [answer.status_code for answer in await asyncio.gather(*answers)]

    with place.logged_in("ana") as owner:
        owner.cookies.delete("fluffle_session")
        answers = run(guess())
        assert 0 < answers.count(401) <= 10
        assert answers.count(429) == 150 - answers.count(401)
        assert log_in(owner, "ana", "ana"[::-1]) == 303
