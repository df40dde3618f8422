"""The HTTP server of metrics and health."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.error import HTTPError

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.errors import ConfigurationError
from broker.telemetry import http_server as monitor
from broker.telemetry.counters import Distribution, Runs
from broker.telemetry.http_server import EventLoopHealth, is_of_this_network, watched


class Loops(Collector):
    """A metric that the event loop has to tell."""

    def __init__(self) -> None:
        self._loop = EventLoopHealth()

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("answer", "From the event loop", self._loop.ask(_answer))


async def _answer() -> int:
    return 42


async def well() -> Sequence[str]:
    """All is well."""
    return ()


def get(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def port_in(caplog: pytest.LogCaptureFixture) -> int:
    return int(caplog.messages[-1].rpartition(":")[2].partition("/")[0])


async def test_metrics_are_read_in_the_event_loop_from_the_threads_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with watched("127.0.0.1", 0, collector=Loops(), problems=well):
        status, text = await asyncio.to_thread(get, port_in(caplog), "/metrics")
    assert status == 200
    assert "answer 42.0" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize("page", ["/metrics", "/healthz", "/readyz"])
async def test_a_website_that_resolves_to_this_server_reads_nothing(
    page: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with watched("127.0.0.1", 0, collector=Loops(), problems=well):
        port = port_in(caplog)
        assert (await asyncio.to_thread(status_by_name, port, page, f"evil.example.com:{port}")) == 403
        assert (await asyncio.to_thread(status_by_name, port, page, f"localhost:{port}")) == 200


def status_by_name(port: int, page: str, host: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", page, headers={"Host": host})
    return connection.getresponse().status


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:9480", True),
        ("10.1.2.3", True),
        ("[::1]:9480", True),
        ("localhost", True),
        ("coordinator:9480", True),
        ("host.docker.internal:9480", True),
        ("", True),
        ("evil.com:9480", False),
        ("127.0.0.1.evil.com", False),
        ("localhost.evil.com.", False),
        ("[::1", False),
    ],
)
def test_registrable_domain_names_are_not_answered(host: str, known: bool) -> None:
    assert is_of_this_network(host) is known


async def test_a_stuck_event_loop_is_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(monitor, "ANSWER_TIMEOUT_SECONDS", 0.05)
    async with watched("127.0.0.1", 0, collector=Loops(), problems=well):
        port = port_in(caplog)
        with ThreadPoolExecutor(1) as thread:  # and the loop stands still until it has its answer
            status, text = thread.submit(get, port, "/healthz").result()
        assert status == 503
        assert json.loads(text)["problems"] == ["the event loop has not answered within 0.05 s"]
        status, text = await asyncio.to_thread(get, port, "/metrics")  # and it goes on
        assert status == 200


async def test_each_program_takes_the_next_free_port_until_none_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(monitor, "PORTS_TRIED", 1)
    async with watched("127.0.0.1", 0, collector=Loops(), problems=well):
        port = port_in(caplog)
        with pytest.raises(ConfigurationError, match=f"at 127.0.0.1 from port {port} on: Address already in use"):
            async with watched("127.0.0.1", port, collector=Loops(), problems=well):
                pass
    async with watched("127.0.0.1", port, collector=Loops(), problems=well):
        assert port_in(caplog) == port, "free again"


def test_buckets_count_the_values_up_to_their_bound() -> None:
    values = Distribution((1, 10))
    for value in (0.5, 1, 1.5, 100):
        values.add(value)
    assert values.buckets() == [("1.0", 2), ("10.0", 3), ("+Inf", 4)]
    assert values.total == 103


def test_an_attempt_that_never_ran_has_no_duration() -> None:
    runs = Runs()
    runs.add("cancelled", None, None)
    assert runs.outcomes == {"cancelled": 1}
    assert runs.durations.buckets()[-1] == ("+Inf", 0)


def test_monitoring_libraries_are_imported_only_where_monitoring_is_on() -> None:
    look = "import sys, coordinator.service, workers.worker, fluffle.client.client; print([*sys.modules])"
    modules = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout
    assert "'coordinator.service'" in modules
    for library in ("prometheus_client", "opentelemetry", "wsgiref", "http.server"):
        assert f"'{library}" not in modules
