"""A TCP proxy before a broker that breaks or stops connections at a chosen time."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

PUBLISHER, CONSUMER = 0, 1
"""The connections of a link, in the order in which it opens them."""


class Pair:
    """A connection of a client and the one to the broker. Held data is forwarded later, or never."""

    def __init__(self, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._writers = writers
        self._to_broker, self._to_client = asyncio.Event(), asyncio.Event()
        self._last_words: bytes | None = None
        self._said = False  # the last words
        self.is_half_open = False
        self.resume()

    def hold_what_is_sent(self) -> None:
        """Stop forwarding data to the broker."""
        self._to_broker.clear()

    def hold_answers(self) -> None:
        """Stop forwarding data to the client."""
        self._to_client.clear()

    def resume(self) -> None:
        self._to_broker.set()
        self._to_client.set()

    def lose_the_reply_to(self, words: bytes) -> None:
        """Break the connection after the client has sent this, when the broker answers; the answer is lost."""
        self._last_words = words

    def break_for_the_client(self) -> None:
        """Break the connection of the client and keep that to the broker, which does not notice."""
        self.is_half_open = True
        self._writers[0].transport.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def run(self, client: asyncio.StreamReader, broker: asyncio.StreamReader) -> None:
        to_client, to_broker = self._writers
        with suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(
                self._pass_on(client, to_broker, self._to_broker), self._pass_on(broker, to_client, self._to_client)
            )

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        try:
            while data := await reader.read(65_536):
                await flows.wait()
                if self.is_half_open:
                    continue
                if self._is_lost(data, flows):
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            if not self.is_half_open:
                self.abort()

    def _is_lost(self, data: bytes, flows: asyncio.Event) -> bool:
        if flows is self._to_broker:
            self._said = self._said or (self._last_words is not None and self._last_words in data)
            return False
        return self._said


class Proxy:
    """Forwards bytes until told otherwise. `url` is the address of the broker through the proxy."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, *, listen: str = "127.0.0.1") -> None:
        """With `tls`, clients use TLS to the proxy, which forwards plain text."""
        self.broker_url = url
        self._tls = tls
        self._listen = listen
        self.pairs: list[Pair] = []  # open ones, oldest first
        self._parts = urlsplit(url)
        self._holding = False
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        scheme = self._parts.scheme if self._tls is None else "amqps"
        return urlunsplit(self._parts._replace(scheme=scheme, netloc=f"{credentials}@{self._listen}:{self._port}"))

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, self._listen, self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and accept none until `open`."""
        assert self._server is not None
        self._server.close()
        self.break_connections()

    def break_connections(self) -> None:
        """Break every connection; new ones are accepted."""
        for pair in self.pairs:
            pair.abort()

    def break_for_clients(self) -> None:
        """Do so for every connection; see Pair."""
        for pair in self.pairs:
            pair.break_for_the_client()

    def break_for_the_broker(self) -> None:
        """Close the broker's side of broken connections."""
        for pair in self.pairs:
            if pair.is_half_open:
                pair.abort()

    def lose_the_reply_to(self, words: bytes) -> None:
        """Do so for every connection; see Pair."""
        for pair in self.pairs:
            pair.lose_the_reply_to(words)

    def hold(self) -> None:
        """Forward nothing, like a broken network; connections stay open, and new ones are accepted."""
        self._holding = True
        for pair in self.pairs:
            pair.hold_what_is_sent()
            pair.hold_answers()

    def resume(self) -> None:
        """Forward held data and everything that follows."""
        self._holding = False
        for pair in self.pairs:
            pair.resume()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        except OSError:
            writer.transport.abort()
            return
        pair = Pair((writer, broker_writer))
        self.pairs.append(pair)
        if self._holding:
            pair.hold_what_is_sent()
            pair.hold_answers()
        await pair.run(reader, broker_reader)
        self.pairs.remove(pair)


@asynccontextmanager
async def proxy_to(url: str, tls: ssl.SSLContext | None = None, *, listen: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    """Run a proxy before the broker at `url`; end it with the block."""
    proxy = Proxy(url, tls, listen=listen)
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.resume()
        proxy.cut()


class ProxyThread:
    """A proxy for tests that are not async. `url` is the address of the broker through the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.url = proxy.url
        self.over = asyncio.Event()
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()

    def cut(self) -> None:
        """Break every connection, and accept none any more."""
        self._loop.call_soon_threadsafe(self._proxy.cut)

    def open(self) -> None:
        """Accept connections again after a cut."""
        asyncio.run_coroutine_threadsafe(self._proxy.open(), self._loop).result()

    def break_connections(self) -> None:
        """Break every connection; new ones are accepted."""
        self._loop.call_soon_threadsafe(self._proxy.break_connections)

    def break_for_clients(self) -> None:
        """Break every connection of a client and keep those to the broker; new ones are accepted."""
        self._loop.call_soon_threadsafe(self._proxy.break_for_clients)

    def break_for_the_broker(self) -> None:
        """Close the broker's side of broken connections."""
        self._loop.call_soon_threadsafe(self._proxy.break_for_the_broker)

    def lose_the_reply_to(self, words: bytes) -> None:
        """Break every connection after its client has sent this, when the broker answers; the answer is lost."""
        self._loop.call_soon_threadsafe(self._proxy.lose_the_reply_to, words)

    def hold(self) -> None:
        """Forward nothing; connections stay open."""
        self._loop.call_soon_threadsafe(self._proxy.hold)

    def resume(self) -> None:
        """Forward held data and everything that follows."""
        self._loop.call_soon_threadsafe(self._proxy.resume)

    def end(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self.over.set)


@contextmanager
def proxy_before(url: str, *, listen: str = "127.0.0.1") -> Iterator[ProxyThread]:
    """Run a proxy before the broker (or any server) at `url` in a separate thread; end it with the block."""
    freed_llms: Future[ProxyThread] = Future()

    async def serve() -> None:
        async with proxy_to(url, listen=listen) as proxy:
            controls = ProxyThread(proxy)
            freed_llms.set_result(controls)
            await controls.over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    controls = freed_llms.result()
    try:
        yield controls
    finally:
        controls.end()
        thread.join()
