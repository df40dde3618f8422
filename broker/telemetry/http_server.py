"""An HTTP server for monitoring: `/metrics` for Prometheus, `/healthz` and `/readyz`.

The server runs in a separate thread, so that it can report that the program's event loop is stuck.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.amqp.robust_connection import RobustConnection
from broker.errors import ConfigurationError
from broker.telemetry.counters import Distribution, Runs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PORTS_TRIED = 100  # from the configured port on: several programs on one computer may have the same settings
ANSWER_TIMEOUT_SECONDS = 5.0  # for an answer of the event loop
_PRIVATE = (".localhost", ".local", ".internal")  # endings of names in local networks only
_POLL_SECONDS = 0.1  # between checks whether the server shall end

T = TypeVar("T")

_log = logging.getLogger(__name__)


class EventLoopHealth:
    """Runs coroutines on the program's event loop, from the server's threads."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def ask(self, look: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine and return its result. Raises TimeoutError when the event loop takes too long."""
        asked = asyncio.run_coroutine_threadsafe(look(), self._loop)
        try:
            return asked.result(ANSWER_TIMEOUT_SECONDS)
        finally:
            asked.cancel()


@asynccontextmanager
async def watched(
    host: str, port: int, *, collector: Collector, problems: Callable[[], Coroutine[Any, Any, Sequence[str]]]
) -> AsyncIterator[None]:
    """Serve the pages during the block, at the first free port from `port` on (0: any).

    `problems` returns why the program cannot work now. Raises ConfigurationError when no port is free.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    server = _bound(host, port, _Pages(make_wsgi_app(registry), EventLoopHealth(), problems))
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="monitor", daemon=True)
    thread.start()
    _log.info("metrics at http://%s:%d/metrics", host, server.server_port)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Pages:
    """The pages as a WSGI application."""

    def __init__(
        self, metrics: Any, loop: EventLoopHealth, problems: Callable[[], Coroutine[Any, Any, Sequence[str]]]
    ) -> None:
        self._metrics = metrics
        self._loop = loop
        self._problems = problems

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if not is_of_this_network(environ.get("HTTP_HOST", "")):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"Ask by an IP address, or by a name of this computer or network.\n"]
        match environ["PATH_INFO"]:
            case "/metrics":
                pages: Iterable[bytes] = self._metrics(environ, start_response)
                return pages
            case "/healthz":
                return self._state(_none, start_response)
            case "/readyz":
                return self._state(self._problems, start_response)
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"There are /metrics, /healthz and /readyz.\n"]

    def _state(
        self, look: Callable[[], Coroutine[Any, Any, Sequence[str]]], start_response: "StartResponse"
    ) -> Iterable[bytes]:
        try:
            problems = list(self._loop.ask(look))
        except TimeoutError:
            problems = [f"the event loop has not answered within {ANSWER_TIMEOUT_SECONDS:g} s"]
        status = "503 Service Unavailable" if problems else "200 OK"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps({"ok": not problems, "problems": problems}).encode() + b"\n"]


def is_of_this_network(host: str) -> bool:
    """Whether the `Host` of a request cannot be a registered domain: an IP address, a local or a private name.

    Against DNS rebinding: a website can reach this server from a browser through a domain that resolves to it.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if "." not in name or name.endswith(_PRIVATE) or name == socket.getfqdn().lower():
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


async def _none() -> Sequence[str]:
    """Return no problems: the event loop answered."""
    return ()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # the program ends without waiting for slow readers


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds without a request after which a connection is closed

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Do not log each request."""


def _bound(host: str, port: int, pages: _Pages) -> WSGIServer:
    for candidate in range(port, min(port + PORTS_TRIED, 65_536)) if port else (0,):
        try:
            return make_server(host, candidate, pages, _Server, _Quiet)
        except OSError as error:
            failure = error
    raise ConfigurationError(f"metrics cannot be served at {host} from port {port} on: {failure.strerror}") from failure


# -- metrics that every program has --------------------------------------------------------------------------------


def of_the_link(*links: RobustConnection) -> Iterable[Metric]:
    """Return the metrics of connections to RabbitMQ."""
    yield GaugeMetricFamily(
        "fluffle_connected",
        "1 while all connections to RabbitMQ are up",
        bool(links) and all(link.connected for link in links),
    )
    yield GaugeMetricFamily(
        "fluffle_blocked", "1 while RabbitMQ accepts no messages", any(link.blocked for link in links)
    )
    yield CounterMetricFamily(
        "fluffle_reconnects",
        "Connections to RabbitMQ that were lost and opened again",
        sum(it.reconnects for it in links),
    )
    failed = CounterMetricFamily(
        "fluffle_failed_deliveries",
        "Deliveries of a queue for which RabbitMQ closed the connection",
        labels=("queue",),
    )
    for link in links:
        for queue, count in list(link.failed_deliveries.items()):
            failed.add_metric((queue,), count)
    yield failed
    yield GaugeMetricFamily(
        "fluffle_unconfirmed_messages",
        "Messages that RabbitMQ has not confirmed",
        sum(link.unconfirmed for link in links),
    )


def of_runs(prefix: str, runs: dict[str, Runs]) -> Iterable[Metric]:
    """Return the metrics of attempts; `runs` by the name of the LLM."""
    outcomes = CounterMetricFamily(f"{prefix}_attempts", "Attempts that are over", labels=("llm", "outcome"))
    durations = HistogramMetricFamily(f"{prefix}_attempt_seconds", "How long attempts ran", labels=("llm",))
    tokens = CounterMetricFamily(f"{prefix}_tokens", "Tokens that attempts have used", labels=("llm", "direction"))
    cost = CounterMetricFamily(f"{prefix}_cost_usd", "US dollars that attempts have cost", labels=("llm",))
    for llm, finished in runs.items():
        for outcome, count in list(finished.outcomes.items()):
            outcomes.add_metric((llm, outcome), count)
        for direction, count in list(finished.tokens.items()):
            tokens.add_metric((llm, direction), count)
        durations.add_metric((llm,), finished.durations.buckets(), finished.durations.total)
        cost.add_metric((llm,), finished.cost)
    yield from (outcomes, durations, tokens, cost)


def histogram(name: str, meaning: str, values: Distribution) -> Metric:
    """Return a distribution as a metric."""
    return HistogramMetricFamily(name, meaning, buckets=values.buckets(), sum_value=values.total)
