"""Acknowledgements, sent in as few frames as possible."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol


class SettlingChannel(Protocol):
    """The part of a channel that settles deliveries."""

    @property
    def is_open(self) -> bool:
        """Whether RabbitMQ still accepts acknowledgements on this channel."""

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject one delivery; `requeue` returns it to its queue."""

    def send_acks(self, *, up_to: int | None, besides: Sequence[int]) -> None:
        """Acknowledge all deliveries up to a tag, and the tags in `besides`."""


class AckBatcher:
    """The unsettled deliveries of one channel.

    The acknowledgements of one turn of the event loop go into as few frames as possible: one frame, as long as no
    older delivery is unsettled.
    """

    def __init__(self, channel: SettlingChannel, on_settled: Callable[[], None] | None = None) -> None:
        """Call `on_settled` for every delivery that is acknowledged or rejected."""
        self._channel = channel
        self._on_settled = on_settled
        self._unsettled: dict[int, None] = {}  # delivery tags, oldest first
        self._acked: list[int] = []  # tags that are acknowledged but not sent yet

    @property
    def is_open(self) -> bool:
        """Whether the channel is open."""
        return self._channel.is_open

    def expect(self, tag: int) -> None:
        """Add a delivery that must be settled."""
        self._unsettled[tag] = None

    def ack(self, tag: int) -> None:
        """Acknowledge a delivery, soon. Does nothing for a settled delivery."""
        if self._settle(tag):
            if not self._acked:
                asyncio.get_running_loop().call_soon(self.send_acks)
            self._acked.append(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject a delivery. Does nothing for a settled delivery."""
        if self._settle(tag) and self.is_open:
            self._channel.reject(tag, requeue=requeue)

    def send_acks(self) -> None:
        """Send the collected acknowledgements now."""
        acked, self._acked = self._acked, []
        if acked and self.is_open:
            oldest = next(iter(self._unsettled), max(acked) + 1)
            self._channel.send_acks(
                up_to=max((tag for tag in acked if tag < oldest), default=None),
                besides=[tag for tag in acked if tag > oldest],
            )

    def _settle(self, tag: int) -> bool:
        """Mark a delivery as settled. Returns whether the delivery was unsettled."""
        was_unsettled = self._unsettled.pop(tag, False) is None
        if was_unsettled and self._on_settled is not None:
            self._on_settled()
        return was_unsettled
