"""Read a queue by AMQP 1.0.

A message of an AMQP 1.0 client may have values of types that AMQP 0-9-1 lacks. When RabbitMQ cannot translate these, it
closes the connection of every AMQP 0-9-1 client to which it delivers the message (INTERNAL_ERROR). AMQP 1.0 can read
such a message and remove it from the queue.
"""

import asyncio
import struct
from contextlib import suppress
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from broker.amqp.envelope import Delivery
from broker.amqp.url import Tls, split_off_tls, tls_context, vhost
from broker.amqp10.messages import UNTRANSLATABLE, read_delivery
from broker.amqp10.types import Described, Symbol, decode, encode
from broker.errors import AccessRefused, BrokerError, BrokerUnreachable

_TIMEOUT_SECONDS = 10.0  # for an answer of RabbitMQ
_LARGEST_FRAME = 1024 * 1024
_SASL, _AMQP = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
_MECHANISMS, _INIT, _OUTCOME = 0x40, 0x41, 0x44
_OPEN, _BEGIN, _ATTACH, _FLOW, _TRANSFER, _DISPOSITION, _DETACH, _END, _CLOSE = range(0x10, 0x19)
_SOURCE, _TARGET = 0x28, 0x29
_ACCEPTED, _REJECTED, _RELEASED = 0x24, 0x25, 0x26
_WINDOW = 2**31 - 1


class Receiver:
    """Takes messages of one queue. It is the `Settler` of its deliveries.

    `async with Receiver(url, queue) as receiver:`; unsettled messages return to the queue at the end. Raises
    BrokerUnreachable, AccessRefused or BrokerError, also when RabbitMQ does not speak AMQP 1.0.
    """

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._version = 0  # RabbitMQ's major version
        self._next = 0  # the number of the next transfer
        self._count = 0  # RabbitMQ's first delivery number
        self.is_open = False

    async def __aenter__(self) -> Self:
        plain, tls = split_off_tls(self._url)
        parts = urlsplit(plain)
        secure = parts.scheme == "amqps"
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(
                    parts.hostname,
                    parts.port or (5671 if secure else 5672),
                    ssl=tls_context(tls) if secure else None,
                    server_hostname=(tls.server_name or parts.hostname) if secure else None,
                )
                await self._log_in(plain, tls)
                self._version = await self._opened()
                await self._attach(self._version)
        except BaseException as error:
            self._hang_up()
            if isinstance(error, OSError | TimeoutError | EOFError):
                raise BrokerUnreachable(f"RabbitMQ does not answer by AMQP 1.0 ({error or 'no answer'})") from error
            raise
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_open:
            self._send(_CLOSE, [])
            with suppress(BrokerError, OSError, TimeoutError, EOFError):  # after the answer, RabbitMQ has all outcomes
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    while (await self._frame())[0] != _CLOSE:
                        pass
        self._hang_up()

    async def take(self, limit: int) -> list[Delivery]:
        """Take the oldest messages of the queue, unsettled and at most `limit`. Call it once."""
        found: list[Delivery] = []
        begun: dict[int, bytes] = {}
        awaited = limit
        #            next in, window, next out, window, link, count, credit, available, drain: nothing is waited for
        self._send(_FLOW, [self._next, _WINDOW, 0, _WINDOW, 0, self._count, limit, None, True])
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                tag = 0
                while len(found) < awaited:
                    kind, frame, payload = await self._frame()
                    if kind == _TRANSFER:
                        tag = tag if frame[1] is None else frame[1]
                        begun[tag] = begun.get(tag, b"") + payload
                        if not (len(frame) > 5 and frame[5]):  # the last frame of the message
                            found.append(read_delivery(begun.pop(tag), self._version, tag, self, self._queue))
                    elif kind == _FLOW and len(frame) > 6 and frame[4] is not None and not frame[6]:
                        # RabbitMQ takes back the rest of the credit: 3.10 reports it before the deliveries, 4.x after.
                        awaited = limit - (frame[5] - self._count) % 2**32
        except TimeoutError:
            pass
        except (OSError, EOFError) as error:
            self.is_open = False
            raise BrokerUnreachable(f"the connection to RabbitMQ by AMQP 1.0 was lost ({error})") from error
        return found

    def ack(self, tag: int) -> None:
        """Accept a message: RabbitMQ removes it from the queue."""
        self._settle(tag, _ACCEPTED)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Return a message to the queue, or make it a dead letter."""
        self._settle(tag, _RELEASED if requeue else _REJECTED)

    async def confirmed(self) -> None:
        """Wait until RabbitMQ has all outcomes. Raises BrokerError when the connection is lost."""
        self._send(_DETACH, [0, True])  # after all outcomes; the receiver takes no more messages
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                while (await self._frame())[0] != _DETACH:
                    pass
        except (OSError, EOFError, TimeoutError) as error:
            self.is_open = False
            raise BrokerUnreachable(f"the connection to RabbitMQ by AMQP 1.0 was lost ({error})") from error

    def _settle(self, tag: int, state: int) -> None:
        if self.is_open:
            self._send(_DISPOSITION, [True, tag, tag, True, Described(state, [])])

    # -- opening ---------------------------------------------------------------------------------------------------

    async def _log_in(self, url: str, tls: Tls) -> None:
        await self._hello(_SASL)
        await self._expect(_MECHANISMS)
        parts = urlsplit(url)
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        mechanism, secret = ("EXTERNAL", "") if tls.external else ("PLAIN", f"\0{user}\0{password}")
        self._send(_INIT, [Symbol(mechanism), secret.encode(), None], sasl=True)
        if (await self._expect(_OUTCOME))[0] != 0:
            raise AccessRefused("RabbitMQ refused the user or its password")
        await self._hello(_AMQP)

    async def _hello(self, header: bytes) -> None:
        self._writer.write(header)
        if (answer := await self._reader.readexactly(8)) != header:
            raise BrokerError(f"RabbitMQ does not speak AMQP 1.0 (it answered {answer!r})")

    async def _opened(self) -> int:
        """Open the connection. Returns RabbitMQ's major version."""
        self._send(_OPEN, ["fluffle", f"vhost:{vhost(self._url)}", _LARGEST_FRAME])
        answer = await self._expect(_OPEN)
        properties = answer[9] if len(answer) > 9 and isinstance(answer[9], dict) else {}
        return int(str(properties.get("version", "3")).partition(".")[0])

    async def _attach(self, version: int) -> None:
        address = f"/queues/{quote(self._queue, safe='')}" if version >= 4 else f"/amq/queue/{self._queue}"
        self._send(_BEGIN, [None, 0, _WINDOW, _WINDOW])
        self._next = (await self._expect(_BEGIN))[1]
        source, target = Described(_SOURCE, [address]), Described(_TARGET, [])
        self._send(_ATTACH, ["fluffle", 0, True, None, None, source, target])
        attached = await self._expect(_ATTACH)
        self._count = (attached[9] if len(attached) > 9 else None) or 0

    # -- frames ----------------------------------------------------------------------------------------------------

    def _send(self, kind: int, values: list[Any], *, sasl: bool = False) -> None:
        body = encode(Described(kind, values))
        self._writer.write(struct.pack(">IBBH", len(body) + 8, 2, int(sasl), 0) + body)

    async def _expect(self, kind: int) -> list[Any]:
        while (frame := await self._frame())[0] != kind:
            pass
        return frame[1]

    async def _frame(self) -> tuple[int, list[Any], bytes]:
        """Read the next frame: its kind, its values and its payload. Raises BrokerError for a refusal."""
        while True:
            size, offset, *_ = struct.unpack(">IBBH", await self._reader.readexactly(8))
            body = (await self._reader.readexactly(size - 8))[4 * offset - 8 :]
            if body:  # else the frame is a heartbeat
                break
        described, end = decode(body)
        kind, values = described.kind, described.value
        at = {_DETACH: 2, _END: 0, _CLOSE: 0}.get(kind)
        if at is not None and len(values) > at and values[at] is not None:
            self.is_open = False
            condition, *texts = values[at].value
            error = AccessRefused if condition == "amqp:unauthorized-access" else BrokerError
            raise error(f"RabbitMQ said: {next(filter(None, texts), condition)}")
        return kind, values, body[end:]

    def _hang_up(self) -> None:
        self.is_open = False
        if hasattr(self, "_writer"):
            self._writer.close()


async def expel(url: str, queue: str) -> str | None:
    """Make the first message of a queue a dead letter, if RabbitMQ cannot translate it to AMQP 0-9-1.

    Returns the message's id and the reason; None for another message. Raises BrokerError without AMQP 1.0.
    """
    async with Receiver(url, queue) as receiver:
        for delivery in await receiver.take(1):
            if why := delivery.headers.get(UNTRANSLATABLE):
                delivery.reject()
                await receiver.confirmed()
                return f"{delivery.properties.message_id or 'without ID'} ({why})"
    return None
