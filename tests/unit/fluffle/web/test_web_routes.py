"""Every route of the page, and who may ask for it."""

import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

from fluffle.web.access.auth import Authenticator, Tokens
from fluffle.web.app import build
from fluffle.web.page_context import SharedServices
from tests.support.processes import ROOT
from tests.unit.docs.test_docs import code, table_after

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def application() -> Any:
    """The page as it is served, on a coordinator that nobody asks."""
    return build(SharedServices(MagicMock(), Authenticator(Tokens(TOKEN), secret=TOKEN), MagicMock()))


def routes(application: Any) -> set[tuple[str, str]]:
    """Method and path of each route, as they are written in the documentation."""
    while not hasattr(application, "routes"):
        application = getattr(application, "app", None) or application._app
    return {
        (method, re.sub(r"(_nicegui/)[^/]+", r"\1<version>", re.sub(r"\{(\w+)(:path)?\}", r"<\1>", path)))
        for path, methods in found(application.routes)
        for method in methods
    }


def found(some: Any, before: str = "") -> Iterator[tuple[str, set[str]]]:
    for route in some:
        path = before + route.path
        inner = list(getattr(route, "routes", None) or [])
        if inner:
            yield from found(inner, path)
        else:
            yield (
                path if hasattr(route, "methods") else f"{path}/<path>",
                set(getattr(route, "methods", {"GET"})) - {"HEAD"},
            )


def described() -> dict[tuple[str, str], str]:
    rows = table_after("routes", (ROOT / "docs/web.md").read_text(encoding="utf-8"))
    return {(method, path): who for cells in rows for method, path in [code(cells[0])[0].split()] for who in [cells[1]]}


def test_every_route_is_described_with_those_who_may_ask_for_it(application: Any) -> None:
    assert set(described()) == routes(application)
    assert set(described().values()) <= {"everybody", "operators and viewers"}


@pytest.mark.parametrize("route", described(), ids=lambda route: " ".join(route))
async def test_without_a_login_nothing_else_answers(application: Any, route: tuple[str, str]) -> None:
    method, path = route
    address = re.sub(r"<\w+>", "x", path)
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fluffle.test") as stranger:
        answer = await stranger.request(method, address, headers={"origin": "http://fluffle.test"})
    is_refused = answer.status_code == 401 and answer.text == "Log in first."
    assert is_refused is (described()[route] != "everybody")
