"""Who plays in a storm: coordinators and workers that can be killed and started again, workers behind proxies."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from broker.node import PrivateNode
from tests.support.ledger import Ledger
from tests.support.processes import Process
from tests.support.proxy import ProxyThread, proxy_before
from tests.support.site import Site

LEASE, LEAD = 3.0, 1.0  # seconds
SETTINGS = {"FLUFFLE_LEASE": f"{LEASE:g}", "FLUFFLE_LEADER_LEASE": f"{LEAD:g}", "FLUFFLE_BATCH": "50"}
SLOTS = 10


class Cast:
    """The processes of a storm by their names. `altered` is about every one of them that is ever started."""

    workers = ("ann", "ben", "cid")
    coordinators = ("coordinator 1", "coordinator 2")
    lease, lead = LEASE, LEAD

    def __init__(self, site: Site, ledger: Ledger, proxies: dict[str, ProxyThread], altered: Sequence[str]) -> None:
        assert site.rabbitmq.node is not None, "a storm needs a RabbitMQ that it may kill"
        self.site = site
        self.node: PrivateNode = site.rabbitmq.node
        self.proxies = proxies
        self.ledger = ledger
        self._altered = tuple(altered)
        self._processes = {name: self._start(name) for name in (*self.coordinators, *self.workers)}

    def process(self, name: str) -> Process:
        """The process of that name as it runs now."""
        return self._processes[name]

    def restart(self, name: str, *changes: str) -> None:
        """End a process as kill -9 does, and start it again, with something more about it altered."""
        self._processes[name].kill()
        self._processes[name] = self._start(name, *changes)

    def crash_at(self, point: str) -> None:
        """Let the coordinators die at a named point, whichever of them gets there, and start them again."""
        for name in self.coordinators:
            self._processes[name].kill()
        doomed = self.site.coordinator(until=None, altered=self._altered, FLUFFLE_CRASH_AT=point)
        assert doomed.wait() == -9
        self._processes |= {name: self._start(name) for name in self.coordinators}

    def _start(self, name: str, *changes: str) -> Process:
        altered = (*self._altered, *changes)
        if name in self.coordinators:
            return self.site.coordinator(altered=altered)
        handler = ("--handler", "tests.support.handlers:work_for_a_while", "--slots", str(SLOTS))
        return self.site.worker(name, *handler, url=self.proxies[name].url, altered=altered, **self.ledger.env)


@contextmanager
def cast_on(site: Site, ledger: Ledger, altered: Sequence[str] = ()) -> Iterator[Cast]:
    """A cast with everybody running; the site ends its processes."""
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(proxy_before(site.url)) for name in Cast.workers}
        yield Cast(site, ledger, proxies, altered)
