"""A TCP proxy before a broker, to break its connections in a chosen moment and way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Passes bytes on until told otherwise. `url` is the broker's, by way of the proxy."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.broker_url = url
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._parts = parts
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{credentials}@127.0.0.1:{self._port}"))

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._writers) // 2

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and accept none until `open`."""
        assert self._server is not None
        self._server.close()
        self.break_connections()

    def break_connections(self) -> None:
        """Break every connection; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Swallow everything from now on, as a network does that has lost its way; connections stay open."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass on what was held and all that follows."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, broker_writer}
        with suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(self._pass_on(reader, broker_writer), self._pass_on(broker_reader, writer))
        self._writers -= {writer, broker_writer}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the broker at `url`, gone at the end."""
    proxy = Proxy(url)
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.resume()
        proxy.cut()
