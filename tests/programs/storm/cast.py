"""The processes of a storm: coordinators and workers that can be killed and restarted, on hosts that can be cut off."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from broker.node.private_node import PrivateNode
from tests.support.altered_program import Clock
from tests.support.network_hosts import Host, hosts, why_not
from tests.support.processes import Process
from tests.support.proxy import ProxyThread, proxy_before
from tests.support.site import Site
from tests.support.task_audit import Ledger

LEASE, LEAD = 3.0, 1.0  # seconds
SLOTS = 10
GETS_THERE = 10.0  # seconds
WORKERS = ("ann", "ben", "cid")
COORDINATORS = ("coordinator 1", "coordinator 2")
ABROAD = (*WORKERS, COORDINATORS[1])
"""Processes with a separate host, if hosts can be created; the others run where RabbitMQ runs."""


def settings(lease: float = LEASE) -> dict[str, str]:
    """Return the settings of all processes of a storm: short leases, and small batches, so that there are many."""
    return {"FLUFFLE_LEASE": f"{lease:g}", "FLUFFLE_LEADER_LEASE": f"{LEAD:g}", "FLUFFLE_BATCH": "50"}


@dataclass(frozen=True)
class Ways:
    """The proxies to RabbitMQ, by the name of the process, and the one to PostgreSQL."""

    hosts: Mapping[str, Host]
    rabbitmq: Mapping[str, ProxyThread]
    database: ProxyThread | None


class Cast:
    """The processes of a storm by name. `altered` applies to each process that is started."""

    workers, coordinators = WORKERS, COORDINATORS
    lead = LEAD

    def __init__(self, site: Site, ledger: Ledger, ways: Ways, altered: Sequence[str]) -> None:
        self.site = site
        self.ledger = ledger
        self.ways = ways
        self.lease = float(site.env["FLUFFLE_LEASE"])
        self._altered = tuple(altered)
        self.clocks = {name: Clock(site.state / f"{name}.clock") for name in (*self.coordinators, *self.workers)}
        self._processes = {name: self._start(name) for name in (*self.coordinators, *self.workers)}

    @property
    def node(self) -> PrivateNode:
        """The RabbitMQ of the storm."""
        assert self.site.rabbitmq.node is not None, "a storm needs a RabbitMQ that it may kill"
        return self.site.rabbitmq.node

    def process(self, name: str) -> Process:
        """Return the current process of that name."""
        return self._processes[name]

    def restart(self, *names: str, changes: Sequence[str] = ()) -> None:
        """End processes with kill -9 and restart them, with more `changes`."""
        for name in names:
            self._processes[name].kill()
        self._processes |= {name: self._start(name, *changes) for name in names}

    def crash_at(self, point: str) -> None:
        """Let the only running coordinator die at a named point, and restart both.

        It is killed if it does not reach that point: then nothing progresses, and the storm finds that.
        """
        for name in self.coordinators:
            self._processes[name].kill()
        altered = (self.clocks[self.coordinators[0]].change, *self._altered)
        doomed = self.site.coordinator(until=None, altered=altered, FLUFFLE_CRASH_AT=point)
        with suppress(subprocess.TimeoutExpired):
            doomed.wait(within=GETS_THERE)
        doomed.kill()
        self._processes |= {name: self._start(name) for name in self.coordinators}

    def _start(self, name: str, *changes: str) -> Process:
        altered = (self.clocks[name].change, *self._altered, *changes)
        host, proxy = self.ways.hosts.get(name), self.ways.rabbitmq.get(name)
        inside, url = host.prefix if host else (), proxy.url if proxy else None
        if name in self.coordinators:
            database = {"FLUFFLE_DATABASE_URL": self.ways.database.url} if self.ways.database else {}
            return self.site.coordinator(altered=altered, inside=inside, url=url, env=database)
        handler = ("--handler", "tests.support.recording_llms:work_for_a_while", "--slots", str(SLOTS))
        return self.site.worker(name, *handler, altered=altered, inside=inside, url=url, env=self.ledger.env)


@contextmanager
def cast_on(site: Site, ledger: Ledger, altered: Sequence[str] = ()) -> Iterator[Cast]:
    """Start all processes of a storm; the site ends them."""
    with ExitStack() as stack:
        there = [] if why_not() else stack.enter_context(hosts(len(ABROAD)))
        listen = there[0].gateway if there else "127.0.0.1"
        rabbitmq = {name: stack.enter_context(proxy_before(site.url, listen=listen)) for name in ABROAD}
        url = site.env["FLUFFLE_DATABASE_URL"] if site.server else None
        database = stack.enter_context(proxy_before(url, listen=listen)) if url else None
        yield Cast(site, ledger, Ways(dict(zip(ABROAD, there, strict=False)), rabbitmq, database), altered)
