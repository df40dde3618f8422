"""How large a request may be, and how long it may take."""

import asyncio
import logging
import resource
from typing import Any

import pytest

from fluffle.web.access import connections
from fluffle.web.access.connections import BoundedBodies, max_connections


async def answer_to(*pieces: bytes, gives_up: bool = False) -> tuple[int, bytes]:
    """Status and body of the answer to a request whose body comes in these pieces; one that gives up stops there."""
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    answered: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    async def receive() -> Any:
        if not left and gives_up:
            await asyncio.Event().wait()
        return left.pop(0) if left else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        answered.append(message)

    await BoundedBodies(app)({"type": "http"}, receive, send)
    return answered[0]["status"], answered[1]["body"]


async def test_a_body_within_the_limit_passes() -> None:
    assert await answer_to(b"a" * 1000, b"b" * 1000) == (200, b"2000")


async def test_a_body_that_is_too_large_is_refused() -> None:
    status, told = await answer_to(*[b"a" * 1024**2] * 3)
    assert (status, told) == (413, b"This request is too large.")


async def test_a_body_that_does_not_arrive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_TIMEOUT_SECONDS", 0.05)
    status, told = await answer_to(b"a", gives_up=True)
    assert (status, told) == (408, b"This request did not arrive in time.")


def test_connections_leave_descriptors_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, expected in ((256, 64), (1024, 256), (1_000_000, connections.MAX_CONNECTIONS)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, most=most: (most, most))
        assert max_connections() == expected


def test_a_repeated_log_message_is_logged_once_in_ten_seconds() -> None:
    records = [logging.makeLogRecord({"msg": f"accept() failed, out of file descriptors: {n}"}) for n in range(1000)]
    other = logging.makeLogRecord({"msg": "something else"})
    late = logging.makeLogRecord({"msg": records[0].msg, "created": records[-1].created + 11})
    sparing = connections.RepeatFilter()
    assert [sparing.filter(record) for record in records].count(True) == 1
    assert sparing.filter(other)
    assert sparing.filter(late)
