"""The text of an answer as it comes, in messages that are worth sending."""

import asyncio
from collections.abc import Callable

INTERVAL = 0.1
"""Seconds between two messages about one attempt."""


class ProgressStream:
    """Joins pieces of text into at most ten messages a second.

    An answer that is there within the first tenth of a second sends none: its result says it all. While the message
    before is not confirmed, nothing is sent and the text is kept.
    """

    __slots__ = ("_closed", "_last", "_pieces", "_publish", "_timer")

    def __init__(self, publish: Callable[[str], asyncio.Future[None]]) -> None:
        self._publish = publish
        self._pieces: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._last: asyncio.Future[None] | None = None
        self._closed = False

    def add(self, text: str) -> None:
        """Take the next piece."""
        if text and not self._closed:
            self._pieces.append(text)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._on_time)

    def close(self) -> None:
        """Send what is left if something was sent before, and take no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            if self._last is not None:
                self._send()

    def _on_time(self) -> None:
        if self._last is not None and not self._last.done():
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._on_time)
        else:
            self._timer = None
            self._send()

    def _send(self) -> None:
        self._last = self._publish("".join(self._pieces))
        self._pieces.clear()
