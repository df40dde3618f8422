"""The rows of the crash matrix: who dies or fails at which point, and what must hold after that."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.errors import UnknownAddress
from fluffle import SyncClient
from tests.support import small_disk as disks
from tests.support.amqp import amqp
from tests.support.postgres import Postgres
from tests.support.processes import Process, fluffle, until
from tests.support.proxy import proxy_before
from tests.support.rabbitmq import NodeInfo
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.site import Site, site_on, why_never_read_only
from tests.support.task_audit import Ledger

SHORT, LONG = 2.0, 10.0  # seconds of a lease: one that runs out, and one that must not
MANY = 200  # tasks of a row that needs several batches
WAITING = "waiting for the database"


class CrashSite:
    """A site with its ledger, where a row runs."""

    def __init__(self, site: Site, disk: Path | None) -> None:
        self.site = site
        self.ledger = Ledger(site)
        self.disk = disk
        self.rejected = 0

    def submit(self, *task_ids: str, reply_to: str | None = None) -> None:
        """Submit tasks that finish at once."""
        with amqp(self.site.url) as client:
            for task_id in task_ids:
                task = {"id": task_id, "description": "work", "max_attempts": 20}
                client.submit(task, reply_to=reply_to, delivery_mode=2)
        self.ledger.note(*task_ids)

    def worker(self, name: str, *, url: str | None = None, crash_at: str | None = None, slots: int = 10) -> Process:
        """Start a worker, which may die or stop at a named point."""
        handler = ("--handler", "tests.support.recording_llms:work", "--slots", str(slots))
        crash = {} if crash_at is None else {"FLUFFLE_CRASH_AT": crash_at}
        return self.site.worker(name, *handler, url=url, env={**self.ledger.env, **crash})

    def all_completed(self) -> None:
        """Wait until all submitted tasks are completed."""
        query = "select count(*) from tasks where status = 'completed'"
        wanted = len(self.ledger.submitted)
        until(lambda: self.site.select(query) == [(wanted,)], f"{wanted} tasks are completed", within=60)

    def judge(self) -> None:
        """Fail unless every accepted task is completed and recorded once, and no message is left."""
        self.all_completed()
        self.site.drain()
        problems = self.ledger.problems(rejected=self.rejected)
        assert problems == [], problems


Scenario = Callable[[CrashSite], None]


@dataclass(frozen=True)
class Row:
    """A row of the matrix, with its lease in seconds."""

    who: str
    when: str
    play: Scenario
    lease: float = SHORT
    on_small_disk: bool = False
    troubles_node: bool = False

    @property
    def depends_on_database(self) -> bool:
        """Return whether the kind of database matters to the row."""
        return self.who in ("coordinator", "database")

    @property
    def name(self) -> str:
        """Return the name of the row."""
        return f"{self.who}: {self.when}"

    def why_not(self, rabbitmq: NodeInfo, server: Postgres | None) -> str:
        """Return why the row cannot run here, or an empty text."""
        if self.troubles_node and rabbitmq.node is None:
            return "this broker is not ours to trouble"
        if self.on_small_disk:
            return disks.why_not()
        if self.play is READ_ONLY and server is None:
            return why_never_read_only(Path(tempfile.gettempdir()))
        return ""


# -- who publishes -----------------------------------------------------------------------------------------------------


def publisher_dies_before_the_confirm(place: CrashSite) -> None:
    """The publisher submits, dies, and submits the same task again, which is a no-op."""
    site = place.site
    site.coordinator()
    place.worker("ann")
    command = ("task", "submit", "work", "--id", "t")
    with fluffle(*command, url=site.url, state=site.state, env={"FLUFFLE_CRASH_AT": "task-published"}) as doomed:
        assert doomed.wait() == -9
    place.ledger.note("t")
    with fluffle(*command, url=site.url, state=site.state) as again:
        assert again.wait() == 0


def nobody_takes_what_is_published(place: CrashSite) -> None:
    """A message with an unknown routing key is rejected; a message to an unknown address is an error."""
    place.site.coordinator()
    place.worker("ann")
    with amqp(place.site.url) as client:
        client.publish("fluffle.tasks", "nonsense", {"description": "work"})
    place.submit("t")
    with SyncClient(place.site.url, user=place.site.person("ana")) as ana:
        try:
            ana.send("llm.nobody", "are you there?")
        except UnknownAddress:
            place.rejected = 1
            return
    raise AssertionError("a message to nobody was taken")


# -- coordinators ------------------------------------------------------------------------------------------------------


def coordinator_dies(point: str) -> Scenario:
    """The coordinator dies at that point while it accepts tasks, and again while it receives results."""

    def play(place: CrashSite) -> None:
        place.worker("ann")
        with amqp(place.site.url) as client:
            answers = client.queue()
            place.submit(*(f"t-{n}" for n in range(MANY)), reply_to=answers)
            for times in (2, 8):
                assert place.site.coordinator(until=None, FLUFFLE_CRASH_AT=f"{point}:{times}").wait() == -9
            place.site.coordinator()
            place.judge()
            told = {(answer.type, answer.json()["id"]) for answer in client.take_all(answers)}
        wanted = {(kind, it) for kind in ("task.accepted", "task.completed") for it in place.ledger.submitted}
        assert told == wanted, wanted - told

    return play


def leader_stands_still_past_its_lease(place: CrashSite) -> None:
    """The leader is suspended right before a commit, a standby takes over, and the leader resumes."""
    leader = place.site.coordinator(until="leading", FLUFFLE_CRASH_AT="before-commit:8:STOP")
    standby = place.site.coordinator(until="standing by")
    place.worker("ann")
    place.submit(*(f"t-{n}" for n in range(MANY)))
    until(lambda: leader.is_suspended, "the leader is suspended")
    standby.wait_for("leading")
    leader.resume()
    leader.wait_for("standing by")


# -- workers -----------------------------------------------------------------------------------------------------------


def worker_dies(point: str) -> Scenario:
    """The worker dies there, and another worker does the task."""

    def play(place: CrashSite) -> None:
        place.site.coordinator()
        doomed = place.worker("ann", crash_at=point)
        place.submit("t")
        assert doomed.wait() == -9
        place.worker("ben")
        place.all_completed()
        place.worker("ann")  # receives the messages for the one that died

    return play


def worker_dies_with_an_answer(point: str) -> Scenario:
    """The worker dies there and restarts within its lease: its answer is the result."""

    def play(place: CrashSite) -> None:
        place.site.coordinator()
        doomed = place.worker("ann", crash_at=point)
        place.submit("t")
        assert doomed.wait() == -9
        [effect] = place.ledger.effects()
        place.ledger.keep("t", effect["token"])
        place.worker("ann")
        place.all_completed()
        assert len(place.ledger.effects()) == 1, "it was done again"

    return play


def worker_stands_still(point: str) -> Scenario:
    """The worker is suspended there past its lease, another one does the task, and it resumes: nothing changes."""

    def play(place: CrashSite) -> None:
        place.site.coordinator()
        sleepy = place.worker("ann", crash_at=f"{point}:1:STOP")
        place.submit("t")
        until(lambda: sleepy.is_suspended, "the worker is suspended")
        place.worker("ben")
        place.all_completed()
        [before] = place.site.select("select attempt, llm, result from tasks")
        sleepy.resume()
        until(lambda: place.site.select("select 1 from llms where name = 'ann' and state = 'online'"), "it is back")
        place.submit("after")
        place.all_completed()
        assert place.site.select("select attempt, llm, result from tasks where id = 't'") == [before]

    return play


def worker_is_cut_off(place: CrashSite) -> None:
    """The network drops all traffic of the worker without an error on either side."""
    with proxy_before(place.site.url) as proxy:
        place.site.coordinator()
        cut_off = place.worker("ann", url=proxy.url, crash_at="call-started:1:STOP")
        place.submit("t")
        until(lambda: cut_off.is_suspended, "the worker is at work")
        proxy.hold()
        cut_off.resume()
        place.worker("ben")
        place.all_completed()
        proxy.resume()
        until(lambda: place.site.select("select 1 from llms where name = 'ann' and state = 'online'"), "it is back")
        place.judge()


# -- RabbitMQ ----------------------------------------------------------------------------------------------------------


def under_load(trouble: Scenario) -> Scenario:
    """The fault happens while tasks are accepted and completed."""

    def play(place: CrashSite) -> None:
        place.site.coordinator()
        place.worker("ann")
        place.worker("ben")
        place.submit(*(f"before-{n}" for n in range(MANY)))
        until(lambda: place.ledger.done() > 0, "some tasks are done")
        trouble(place)
        place.submit(*(f"after-{n}" for n in range(10)))

    return play


def node_is_killed(place: CrashSite) -> None:
    place.site.kill_and_restart_rabbitmq()


def node_is_restarted(place: CrashSite) -> None:
    node = place.site.rabbitmq.node
    assert node is not None
    node.stop()
    node.start()


def alarm_is_raised(place: CrashSite) -> None:
    node = place.site.rabbitmq.node
    assert node is not None
    rabbitmqctl(node, "set_vm_memory_high_watermark", "0.000001")
    rabbitmqctl(node, "set_vm_memory_high_watermark", "0.4")


def connections_are_closed(place: CrashSite) -> None:
    node = place.site.rabbitmq.node
    assert node is not None
    rabbitmqctl(node, "close_all_connections", "matrix")


def consumers_are_cancelled(place: CrashSite) -> None:
    with amqp(place.site.url) as client:
        client.delete("llm.ann.work")


# -- databases ---------------------------------------------------------------------------------------------------------


def database_is_locked(place: CrashSite) -> None:
    with place.site.locked_database():
        place.submit(*(f"meanwhile-{n}" for n in range(10)))


def database_is_read_only(place: CrashSite) -> None:
    with place.site.read_only_database():
        place.submit(*(f"meanwhile-{n}" for n in range(10)))
        place.site.coordinators[-1].wait_for(WAITING)


def database_is_full(place: CrashSite) -> None:
    assert place.disk is not None
    coordinator, number = place.site.coordinators[-1], 0
    with disks.full(place.disk):
        while WAITING not in coordinator.output:  # allocated pages may have room for some
            place.submit(f"meanwhile-{number}")
            number += 1


def database_is_down(place: CrashSite) -> None:
    server = place.site.server
    if server is None:  # SQLite is never down; its lock can be held until a coordinator stops waiting
        database_is_locked(place)
        return
    server.stop()
    place.submit(*(f"meanwhile-{n}" for n in range(10)))
    place.site.coordinators[-1].wait_for(WAITING)
    server.start()


def reply_to_commit_is_lost(place: CrashSite) -> None:
    """The outcome of a commit is unknown: the connection breaks between COMMIT and its reply."""
    place.worker("ann")
    if place.site.server is None:  # it has no connection: the coordinator gets an error once it has committed
        place.site.coordinator(altered=["lost-replies=3"])
        place.submit(*(f"t-{n}" for n in range(MANY)))
        return
    with proxy_before(place.site.env["FLUFFLE_DATABASE_URL"]) as proxy:
        place.site.coordinator(FLUFFLE_DATABASE_URL=proxy.url)
        for number in range(3):
            proxy.lose_the_reply_to(b"COMMIT")
            place.submit(f"t-{number}")
            place.all_completed()
        place.judge()


READ_ONLY = under_load(database_is_read_only)

ROWS: tuple[Row, ...] = (
    Row("publisher", "before the confirm", publisher_dies_before_the_confirm),
    Row("anyone", "publishes where no queue is bound", nobody_takes_what_is_published),
    Row("coordinator", "before the commit", coordinator_dies("before-commit")),
    Row("coordinator", "after the commit, before publishing and acknowledging", coordinator_dies("after-commit")),
    Row("coordinator", "after publishing, before the confirm", coordinator_dies("after-publish")),
    Row("coordinator", "before what is confirmed is marked sent", coordinator_dies("after-confirm")),
    Row("coordinator", "paused past its lease, wakes up", leader_stands_still_past_its_lease),
    Row("worker", "before its claim is confirmed", worker_dies("claim-published")),
    Row("worker", "after its claim, before it acknowledges", worker_dies("claim-confirmed")),
    Row("worker", "in the middle of a call", worker_dies("call-started")),
    Row("worker", "stopped in the middle of a call, wakes up", worker_stands_still("call-started")),
    Row("worker", "cut off in the middle of a call", worker_is_cut_off),
    Row("worker", "with its result in the spool", worker_dies_with_an_answer("result-spooled"), lease=LONG),
    Row(
        "worker", "with its result published, not confirmed", worker_dies_with_an_answer("result-published"), lease=LONG
    ),
    Row(
        "worker",
        "with its result confirmed, and still spooled",
        worker_dies_with_an_answer("result-confirmed"),
        lease=LONG,
    ),
    Row("worker", "gives its result after a reassignment", worker_stands_still("result-spooled")),
    Row("broker", "killed", under_load(node_is_killed), troubles_node=True),
    Row("broker", "restarted", under_load(node_is_restarted), troubles_node=True),
    Row("broker", "alarm raised", under_load(alarm_is_raised), troubles_node=True),
    Row("broker", "connections closed", under_load(connections_are_closed), troubles_node=True),
    Row("broker", "consumers cancelled", under_load(consumers_are_cancelled)),
    Row("database", "locked", under_load(database_is_locked)),
    Row("database", "read-only", READ_ONLY),
    Row("database", "full", under_load(database_is_full), on_small_disk=True),
    Row("database", "down", under_load(database_is_down)),
    Row("database", "the reply to COMMIT is lost", reply_to_commit_is_lost),
)


def play(row: Row, rabbitmq: NodeInfo, server: Postgres | None) -> None:
    """Run a row once, on a new database of `server` or on SQLite. Fails when the row does not hold."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="matrix-")))
        disk = stack.enter_context(disks.small_disk()) if row.on_small_disk else None
        settings = {"FLUFFLE_LEASE": f"{row.lease:g}", "FLUFFLE_LEADER_LEASE": "1", "FLUFFLE_BATCH": "50"}
        site = stack.enter_context(site_on(rabbitmq, folder, server=server, disk=disk, env=settings))
        place = CrashSite(site, disk)
        row.play(place)
        place.judge()
