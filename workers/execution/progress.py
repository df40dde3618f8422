"""The text of an unfinished answer, joined into few messages, and the usage so far."""

import asyncio
import logging
from collections.abc import Callable

from broker.protocol.portable_text import ends_within_a_character, portable
from broker.protocol.worker_reports import Usage

INTERVAL_SECONDS = 0.1
"""Between two messages about one attempt."""

_log = logging.getLogger(__name__)


class ProgressStream:
    """Joins pieces of text into at most ten messages per second.

    An answer within the first tenth of a second sends no message: its result has the text. While the previous message
    is not confirmed, the text is kept.

    Progress is not essential. An error is logged once and ends the progress of the answer; no method raises.
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
                self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._on_time)

    def close(self) -> None:
        """Send the rest if a message was sent before, and take no more."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pieces and self._last is not None:
            self._send()

    def _on_time(self) -> None:
        if self._last is not None and not self._last.done():
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._on_time)
        else:
            self._timer = None
            self._send()

    def _send(self) -> None:
        try:
            text, self._pieces = "".join(self._pieces), []
            if ends_within_a_character(text) and not self._closed:  # the next piece has the other half
                self._pieces.append(text[-1])
                text = text[:-1]
            if text:
                self._last = self._publish(portable(text))
        except Exception:
            self._closed = True
            _log.exception("progress cannot be sent; the result will have the text")


class UsageStream:
    """Sends the usage so far. While a message is not confirmed, only the newest usage is kept.

    As with the text, no method raises.
    """

    __slots__ = ("_publish", "_sent", "_waiting", "last")

    def __init__(self, publish: Callable[[Usage], asyncio.Future[None]]) -> None:
        self._publish = publish
        self._sent: asyncio.Future[None] | None = None
        self._waiting = False
        self.last: Usage | None = None
        """The newest usage."""

    def add(self, usage: Usage, *, is_sent: bool = True) -> None:
        """Take the usage so far, and send it as soon as the one before is confirmed, unless `is_sent` is False."""
        self.last = usage
        self._waiting = is_sent
        if is_sent and (self._sent is None or self._sent.done()):
            self._send()

    def _send(self) -> None:
        if self.last is None or not self._waiting:
            return
        self._waiting = False
        try:
            self._sent = self._publish(self.last)
        except Exception:
            _log.exception("the usage so far cannot be sent; the result will have it")
        else:
            self._sent.add_done_callback(lambda _: self._send())
