"""What every request passes before a page is made: session, origin, prefix, headers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from fluffle.web.access import login
from fluffle.web.access.auth import COOKIE, Authenticator, NoLogin, Role, Tokens
from fluffle.web.access.middleware import VISITOR, AccessMiddleware

TOKEN = "0123456789abcdef"
PAGE = {"accept": "text/html"}


def gate(*, prefix: str = "", open_door: bool = False) -> AccessMiddleware:
    auth = Authenticator(NoLogin() if open_door else Tokens(TOKEN), secret=TOKEN)
    app = FastAPI()
    login.add(app, auth, prefix)

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<html><script>1</script><p>&lt;script&gt;</p><script type='module'>2</script></html>")

    @app.post("/change")
    async def change() -> str:
        return "changed"

    return AccessMiddleware(app, auth, prefix=prefix)


@pytest.fixture
async def visitor() -> AsyncIterator[httpx.AsyncClient]:
    """A browser that nobody knows yet."""
    transport = httpx.ASGITransport(app=gate())
    async with httpx.AsyncClient(transport=transport, base_url="http://fluffle.test") as client:
        yield client


async def test_without_a_session_pages_lead_to_the_login_and_other_requests_are_refused(
    visitor: httpx.AsyncClient,
) -> None:
    answer = await visitor.get("/page?a=1&b=2", headers=PAGE)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fpage%3Fa%3D1%26b%3D2"
    assert (await visitor.get("/page")).status_code == 401
    assert (await visitor.post("/change")).status_code == 401


async def test_a_token_in_the_address_logs_in_and_disappears_from_the_address(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/login", params={"token": TOKEN, "next": "/page"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/page")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie  # it is http here
    assert (await visitor.get("/page")).status_code == 200


async def test_a_cookie_set_over_https_is_sent_only_over_https(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/login", params={"token": TOKEN}, headers={"x-forwarded-proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()


async def test_a_wrong_token_is_refused_and_many_have_to_wait(visitor: httpx.AsyncClient) -> None:
    for _ in range(10):
        answer = await visitor.post("/login", data={"secret": "wrong"}, headers={"origin": "http://fluffle.test"})
        assert answer.status_code == 401
        assert "This token is wrong" in answer.text
    answer = await visitor.post("/login", data={"secret": TOKEN}, headers={"origin": "http://fluffle.test"})
    assert answer.status_code == 429


@pytest.mark.parametrize(
    "wanted", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
async def test_the_login_leads_to_no_other_site(wanted: str, visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/login", params={"token": TOKEN, "next": wanted})
    assert answer.headers["location"] == "/"


async def test_browsers_without_sockets_are_answered_only_for_pages_of_this_site(visitor: httpx.AsyncClient) -> None:
    await visitor.get("/login", params={"token": TOKEN})
    path = "/_nicegui_ws/socket.io/"
    assert (await visitor.get(path, headers={"origin": "http://fluffle.test"})).status_code == 404  # it gets through
    assert (await visitor.get(path, headers={"origin": "http://fluffle.test:9999"})).status_code == 403
    assert (await visitor.get(path, headers={"sec-fetch-site": "same-site"})).status_code == 403


async def test_logging_out_ends_the_session(visitor: httpx.AsyncClient) -> None:
    await visitor.get("/login", params={"token": TOKEN})
    await visitor.post("/logout", headers={"origin": "http://fluffle.test"})
    assert (await visitor.get("/page")).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://fluffle.test"}, 200),
        ({"origin": "https://page.example", "x-forwarded-host": "page.example"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://fluffle.test.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_only_pages_of_this_site_may_change_something(
    headers: dict[str, str], status: int, visitor: httpx.AsyncClient
) -> None:
    await visitor.get("/login", params={"token": TOKEN})
    assert (await visitor.post("/change", headers=headers)).status_code == status


async def test_only_scripts_of_the_page_itself_run(visitor: httpx.AsyncClient) -> None:
    await visitor.get("/login", params={"token": TOKEN})
    first, second = [await visitor.get("/page") for _ in range(2)]
    policy = dict(part.split(" ", 1) for part in first.headers["content-security-policy"].split("; "))
    nonce = policy["script-src"].split("'nonce-")[1].split("'")[0]
    assert first.text.count(f'<script nonce="{nonce}"') == 2
    assert "'unsafe-inline'" not in policy["script-src"]
    assert (policy["default-src"], policy["img-src"], policy["frame-ancestors"]) == ("'none'", "'self' data:", "'none'")
    assert nonce not in second.text
    assert first.headers["x-content-type-options"] == "nosniff"


async def socket(path: str, headers: dict[str, str], **options: Any) -> list[dict[str, Any]]:
    """What becomes of a WebSocket that is opened with these headers."""
    reached: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "reached", "role": scope[VISITOR].role, "path": scope["path"]})

    async def send(message: Any) -> None:
        reached.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    auth = Authenticator(Tokens(TOKEN), secret=TOKEN)
    pairs = [(name.encode(), value.encode()) for name, value in {"host": "fluffle.test", **headers}.items()]
    scope = {"type": "websocket", "path": path, "query_string": b"", "headers": pairs}
    await AccessMiddleware(app, auth, **options)(scope, receive, send)
    return reached


async def test_a_socket_needs_a_session_and_comes_from_our_own_page() -> None:
    auth = Authenticator(Tokens(TOKEN), secret=TOKEN)
    cookie = f"{COOKIE}={auth.enter('', Tokens(TOKEN).token(Role.VIEWER))}"
    own = {"origin": "http://fluffle.test"}
    assert (await socket("/ws", own))[0]["code"] == 4401
    assert (await socket("/ws", {"cookie": cookie}))[0]["code"] == 4403
    assert (await socket("/ws", {"cookie": cookie, "origin": "http://evil.example"}))[0]["code"] == 4403
    assert await socket("/ws", {"cookie": cookie, **own}) == [{"type": "reached", "role": "viewer", "path": "/ws"}]


@pytest.mark.parametrize("path", ["/fluffle/login", "/login"])
async def test_a_proxy_may_remove_the_prefix_or_keep_it(path: str) -> None:
    transport = httpx.ASGITransport(app=gate(prefix="/fluffle"))
    async with httpx.AsyncClient(transport=transport, base_url="http://fluffle.test") as client:
        answer = await client.get(path, headers={"x-forwarded-prefix": '/evil"><script>'})
        assert 'action="/fluffle/login"' in answer.text
        assert 'href="/fluffle/static/fluffle.css?' in answer.text
        assert "evil" not in answer.text
        answer = await client.get(path, params={"token": TOKEN, "next": "/page"})
        assert answer.headers["location"] == "/fluffle/page"
        assert "path=/fluffle" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:8480", 200), ("127.0.0.1", 200), ("[::1]:1", 200), ("rebound.example", 403)]
)
async def test_without_a_login_only_localhost_is_answered(host: str, status: int) -> None:
    transport = httpx.ASGITransport(app=gate(open_door=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://fluffle.test") as client:
        assert (await client.get("/page", headers={"host": host})).status_code == status
