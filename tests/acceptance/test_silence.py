"""A worker that sends heartbeats keeps its task, whatever happens to RabbitMQ, the coordinator or the clock."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.altered_program import Clock
from tests.support.amqp import Amqp
from tests.support.processes import until
from tests.support.proxy import proxy_before
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

LEASE = 3.0  # seconds
LONG = 2.5 * LEASE
MICROS = 1_000_000
WAIT = ("--handler", "tests.support.recording_llms:wait_for_gate")
ENOUGH = 4  # heartbeats, after which a lease without extension would be over


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site with a short lease."""
    with site_on(rabbitmq, tmp_path, FLUFFLE_LEASE=f"{LEASE:g}") as site:
        yield site


class Running:
    """A task that runs at a worker until the test lets it end."""

    def __init__(self, site: Site, ledger: Ledger, client: Amqp, *, url: str | None = None) -> None:
        self._site, self._ledger, self._gate = site, ledger, site.state / "gate"
        self.worker = site.worker("ann", *WAIT, url=url, env=ledger.env)
        client.submit({"id": "t", "description": "wait", "inputs": {"gate": str(self._gate)}, "max_attempts": 1})
        ledger.note("t")
        until(lambda: ledger.effects("started"), "the task runs")
        self.hear_beats(1)

    def hear_beats(self, count: int) -> list[int]:
        """Wait for this many heartbeats; return their times in microseconds by the coordinator's clock."""
        heard = [self._last_seen()]
        for _ in range(count):
            until(lambda: self._last_seen() != heard[-1], "a beat is heard", within=60)
            heard.append(self._last_seen())
        return heard[1:]

    def _last_seen(self) -> int:
        [(at,)] = self._site.select("select last_seen from llms where name = 'ann'")
        return int(at)

    def must_end_at_the_first_attempt(self) -> None:
        """Check that the task is completed by its first attempt."""
        self.hear_beats(ENOUGH)
        self._gate.touch()
        over = "select status from tasks where finished_at is not null"
        until(lambda: self._site.select(over), "the task is over", within=60)
        assert self._site.select("select status, attempt, starts from tasks") == [("completed", 1, 1)]
        assert self._site.select("select attempt, outcome from attempts") == [(1, "completed")]
        assert len(self._ledger.effects("started")) == 1
        self._site.drain()
        assert self._ledger.problems() == []


@pytest.fixture
def run(site: Site, ledger: Ledger, client: Amqp) -> Callable[..., Running]:
    """Return a function that starts the worker and its task."""
    return lambda **options: Running(site, ledger, client, **options)


def test_a_rabbitmq_that_is_suspended_for_longer_than_a_lease_costs_no_attempt(
    rabbitmq: NodeInfo, site: Site, run: Callable[..., Running]
) -> None:
    site.coordinator()
    task = run()
    rabbitmq.suspend(True)
    time.sleep(LONG)
    rabbitmq.suspend(False)
    task.must_end_at_the_first_attempt()


def test_a_coordinator_that_is_suspended_for_longer_than_a_lease_costs_no_attempt(
    site: Site, run: Callable[..., Running]
) -> None:
    coordinator = site.coordinator()
    task = run()
    coordinator.suspend()
    time.sleep(LONG)
    coordinator.resume()
    task.must_end_at_the_first_attempt()


@pytest.fixture
def alarm(rabbitmq: NodeInfo) -> Iterator[None]:
    """Clear the memory alarm that the test raises."""
    yield
    rabbitmq.control("set_vm_memory_high_watermark", "0.25")


@pytest.mark.usefixtures("alarm")
def test_a_rabbitmq_that_blocks_for_longer_than_a_lease_costs_no_attempt(
    rabbitmq: NodeInfo, site: Site, run: Callable[..., Running]
) -> None:
    site.coordinator()
    task = run()
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    time.sleep(LONG)
    rabbitmq.control("set_vm_memory_high_watermark", "0.25")
    task.must_end_at_the_first_attempt()


@pytest.mark.parametrize("ahead", [pytest.param(60, marks=slow), -3600])
def test_a_clock_change_costs_no_attempt(site: Site, run: Callable[..., Running], ahead: int) -> None:
    clock = Clock(site.state / "clock")
    site.coordinator(altered=[clock.change])
    task = run()
    clock.set(ahead)
    task.must_end_at_the_first_attempt()


@pytest.mark.parametrize("ahead", [60, pytest.param(-3600, marks=slow)])
def test_a_clock_change_does_not_change_the_pause_before_the_next_attempt(
    site: Site, ledger: Ledger, client: Amqp, ahead: int
) -> None:
    clock = Clock(site.state / "clock")
    site.coordinator(altered=[clock.change])
    site.worker("ann", "--handler", "tests.support.recording_llms:fail_twice", env=ledger.env)
    client.submit({"id": "t", "description": "work"})
    ledger.note("t")
    until(lambda: site.select("select 1 from tasks where status = 'blocked' and attempt = 2"), "it pauses for 2 s")
    began = time.monotonic()
    clock.set(ahead)
    until(lambda: len(ledger.effects("started")) == 3, "it is tried again", within=20)
    assert time.monotonic() - began > 1.0, "the pause was cut short"
    until(lambda: site.select("select 1 from tasks where status = 'completed'"), "it is completed")


def test_a_killed_worker_goes_offline_after_its_lease_although_the_clock_was_set_back(
    site: Site, run: Callable[..., Running]
) -> None:
    clock = Clock(site.state / "clock")
    site.coordinator(altered=[clock.change])
    task = run()
    clock.set(-3600)
    task.worker.kill()
    until(lambda: site.select("select 1 from llms where state = 'offline'"), "it is offline", within=4 * LEASE)


def test_the_coordinator_ends_an_attempt_whose_worker_ignores_its_timeout(site: Site, client: Amqp) -> None:
    site.coordinator()
    site.queues |= {"llm.stranger.work"}
    work = client.queue(("fluffle.work", "llm.stranger"), name="llm.stranger.work", durable=True)
    control, answers = client.queue(), client.queue()
    attempt = {"task_id": "t", "attempt": 1, "instance": "i"}

    def beat(*tasks: str) -> None:
        running = [{"task_id": task, "attempt": 1} for task in tasks]
        presence = {"name": "stranger", "instance": "i", "slots": 1, "tasks": running}
        client.publish("fluffle.status", "stranger.beat", presence, reply_to=control)

    beat()
    client.submit({"id": "t", "description": "for ever", "timeout": 0.5, "max_attempts": 1}, reply_to=answers)
    assert client.take(work).json()["task_id"] == "t"
    client.publish("fluffle.status", "stranger.claim", attempt)
    began = time.monotonic()

    def is_over() -> bool:
        time.sleep(LEASE / 10)
        beat("t")
        return bool(site.select("select 1 from tasks where finished_at is not null"))

    until(is_over, "the task is over")
    assert time.monotonic() - began > 0.5 + LEASE / 2, "its worker has time to report it"
    assert site.select("select status, error_type from tasks") == [("failed", "timeout")]
    stop = client.take(control).json()
    assert (stop["type"], stop["task_id"], stop["reason"]) == ("stop", "t", "no answer within 0.5 s")
    assert [client.take(answers).type for _ in range(2)] == ["task.accepted", "task.failed"]


def test_a_half_open_connection_of_a_worker_is_not_silence(site: Site, run: Callable[..., Running]) -> None:
    site.coordinator()
    with proxy_before(site.url) as proxy:
        task = run(url=proxy.url)
        [before] = task.hear_beats(1)
        proxy.break_for_clients()
        beats = [before, *task.hear_beats(4)]
        longest = max(later - earlier for earlier, later in itertools.pairwise(beats))
        assert longest < LEASE * MICROS, f"no beat for {longest / MICROS:.1f} s"
        task.must_end_at_the_first_attempt()
