"""The text of an answer as it comes, in messages that are worth sending."""

import asyncio
import logging
from collections.abc import Callable

from broker.protocol.portable_text import ends_within_a_character, portable

INTERVAL = 0.1
"""Seconds between two messages about one attempt."""

_log = logging.getLogger(__name__)


class ProgressStream:
    """Joins pieces of text into at most ten messages a second.

    An answer that is there within the first tenth of a second sends none: its result says it all. While the message
    before is not confirmed, nothing is sent and the text is kept.

    Progress is for show. Whatever goes wrong with it is logged once, and no more of it is sent: nothing here raises.
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
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._pieces and self._last is not None:
            self._send()

    def _on_time(self) -> None:
        if self._last is not None and not self._last.done():
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._on_time)
        else:
            self._timer = None
            self._send()

    def _send(self) -> None:
        try:
            text, self._pieces = "".join(self._pieces), []
            if ends_within_a_character(text) and not self._closed:  # the next piece brings the other half
                self._pieces.append(text[-1])
                text = text[:-1]
            if text:
                self._last = self._publish(portable(text))
        except Exception:
            self._closed = True
            _log.exception("progress cannot be sent: the rest of this answer comes with its end")
