"""Bounds for those who connect: how many at a time, how long a request may take to arrive, how large it may be."""

import asyncio
import itertools
import resource
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_WITHIN = 10.0  # seconds
BODY_WITHIN = 30.0  # seconds between two pieces of a body
MOST_CONNECTIONS = 1000
MOST_BODY = 2 * 1024**2  # bytes

_numbers = itertools.count()


def most_connections() -> int:
    """How many connections are served at a time: at most half of the file descriptors of this process."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_CONNECTIONS, max(16, descriptors // 2))


class BoundedProtocol(H11Protocol):
    """A connection that is closed when the headers of a request do not arrive in time.

    When there are too many connections, the oldest one that has no request under way makes room for the new one.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._number = next(_numbers)
        self._deadline: asyncio.TimerHandle | None = None
        self._expect_headers()
        if len(self.connections) > most_connections():
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
        """Whether no request is under way, and the connection has not become a WebSocket."""
        return (self.cycle is None or self.cycle.response_complete) and self.transport.get_protocol() is self

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADERS_WITHIN, self._on_deadline)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.is_idle and not self.transport.is_closing():
            self.transport.abort()


class BoundedBodies:
    """Answers 413 to a body that is too large, and 408 to one that does not arrive."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, size, complete = False, 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            async with asyncio.timeout(BODY_WITHIN):
                message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise _Refused(413, b"This request is too large.")
            complete = not message.get("more_body", False)
            return message

        async def noticed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, bounded, noticed)
        except (_Refused, TimeoutError) as error:
            if started:
                raise
            refused = error if isinstance(error, _Refused) else _Refused(408, b"This request did not arrive in time.")
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": refused.status, "headers": headers})
            await send({"type": "http.response.body", "body": refused.told})


class _Refused(Exception):
    def __init__(self, status: int, told: bytes) -> None:
        self.status = status
        self.told = told
        super().__init__(status)


def uvicorn_settings() -> dict[str, Any]:
    """How uvicorn is to take connections."""
    return {"http": BoundedProtocol, "h11_max_incomplete_event_size": 32 * 1024, "timeout_keep_alive": 20}
