"""Limits for connections: their number, the time and the size of a request."""

import asyncio
import itertools
import logging
import math
import resource
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_TIMEOUT_SECONDS = 10.0
BODY_TIMEOUT_SECONDS = 30.0  # between two pieces of a body
MAX_CONNECTIONS = 1000
MAX_BODY_BYTES = 2 * 1024**2
LOG_AGAIN_AFTER_SECONDS = 10.0
MAX_MESSAGES_REMEMBERED = 1000

_numbers = itertools.count()


def _share(part: int) -> int:
    """Return the file descriptors of this process divided by `part`."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, most // part)


def max_connections() -> int:
    """Return the maximum number of connections: at most a quarter of the file descriptors of this process.

    New connections are accepted while old ones are still being closed.
    """
    return min(MAX_CONNECTIONS, _share(4))


class BoundedProtocol(H11Protocol):
    """A connection that is closed if the headers of a request do not arrive in time.

    With too many connections, the oldest one without a request in progress is closed for the new one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._number = next(_numbers)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > max_connections():
            idle = [it for it in self.connections if isinstance(it, BoundedProtocol) and it.is_idle]
            min(idle, key=lambda it: it._number).transport.abort()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if not self.is_idle:
            self._stop_waiting()
        elif self._deadline is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress and the connection is not a WebSocket."""
        return (self.cycle is None or self.cycle.response_complete) and self.transport.get_protocol() is self

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADERS_TIMEOUT_SECONDS, self._on_deadline)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.is_idle and not self.transport.is_closing():
            self.transport.abort()


class BoundedBodies:
    """Answers 413 to a body that is too large, and 408 to a body that does not arrive in time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        has_answered = False

        async def answer(message: Message) -> None:
            nonlocal has_answered
            if body.refused is None or has_answered:  # else the application answers that it cannot read
                has_answered = True
                await send(message)

        with suppress(_Refused):
            await self._app(scope, body.receive, answer)
        if body.refused is not None and not has_answered:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": body.refused.status, "headers": headers})
            await send({"type": "http.response.body", "body": body.refused.text})


class _Body:
    """The body of a request, with limits for size and time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0
        self._is_complete = False
        self.refused: _Refused | None = None

    async def receive(self) -> Message:
        """Return the next piece. Raises _Refused."""
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                message = await self._receive()
        except TimeoutError as error:
            self.refused = _Refused(408, b"This request did not arrive in time.")
            raise self.refused from error
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY_BYTES:
            self.refused = _Refused(413, b"This request is too large.")
            raise self.refused
        self._is_complete = not message.get("more_body", False)
        return message


class _Refused(Exception):
    def __init__(self, status: int, text: bytes) -> None:
        self.status = status
        self.text = text
        super().__init__(status)


class RepeatFilter(logging.Filter):
    """Lets the same message through at most every ten seconds, for loggers that may repeat it thousands of times."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}  # by the beginning of the message

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        message = str(record.msg)[:40]
        if record.created - self._logged_at.get(message, -math.inf) < LOG_AGAIN_AFTER_SECONDS:
            return False
        if len(self._logged_at) > MAX_MESSAGES_REMEMBERED:
            self._logged_at.clear()
        self._logged_at[message] = record.created
        return True


def uvicorn_settings() -> dict[str, Any]:
    """Return the settings of uvicorn for connections."""
    return {
        "http": BoundedProtocol,
        "h11_max_incomplete_event_size": 32 * 1024,
        "timeout_keep_alive": 20,
        "backlog": min(128, _share(16)),  # uvicorn accepts this many at once before old connections can be closed
    }
