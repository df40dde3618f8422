"""The compared systems: their processes and their setup."""

from dataclasses import dataclass
from pathlib import Path

_SYSTEMS = "benchmarks.systems"
_SLOTS = "1000"  # of Fluffle's worker
_AT_ONCE = "500"  # tasks that taskiq's worker holds at a time
_QUIET = "WARNING"  # no log line for a completed task

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class System:
    """A system under test. `client` starts after its `processes`; `queues` and `results` are for the table."""

    name: str
    processes: tuple[Command, ...]
    client: Command
    queues: str
    results: bool

    @property
    def is_celery(self) -> bool:
        """Return whether this is Celery, with any pool."""
        return self.name.startswith("celery-")


def fluffle(programs: Path) -> System:
    """Fluffle as installed in the folder `programs`: one coordinator, one worker process."""
    command = str(programs / "fluffle")
    return System(
        "fluffle",
        (
            (command, "coordinator"),
            (command, "worker", "bench", "--handler", f"{_SYSTEMS}.fluffle_handler:noop", "--slots", _SLOTS),
        ),
        (str(programs / "python"), "-m", f"{_SYSTEMS}.fluffle_client"),
        queues="quorum",
        results=True,
    )


def peers(programs: Path) -> list[System]:
    """Every system that Fluffle is compared with, as installed in the folder `programs`."""
    # Not the threads pool: its threads share the connection that confirms task events, and soon deadlock.
    pools = {"prefork": "4", "gevent": "100", "eventlet": "100", "solo": "1"}
    return [*(_celery(programs, pool, size) for pool, size in pools.items()), _taskiq(programs), _dramatiq(programs)]


def _celery(programs: Path, pool: str, concurrency: str) -> System:
    worker = (
        *(str(programs / "celery"), "--app", f"{_SYSTEMS}.celery_app", "worker", "--task-events"),
        *("--pool", pool, "--concurrency", concurrency),
        *("--without-gossip", "--without-mingle", "--loglevel", _QUIET),
    )
    client = (str(programs / "python"), "-m", f"{_SYSTEMS}.celery_app")
    return System(f"celery-{pool}", (worker,), client, queues="quorum", results=True)


def _taskiq(programs: Path) -> System:
    app = f"{_SYSTEMS}.taskiq_app"
    worker = (
        *(str(programs / "taskiq"), "worker", f"{app}:broker", "--workers", "1"),
        *("--max-async-tasks", _AT_ONCE, "--log-level", _QUIET),
    )
    return System("taskiq", (worker,), (str(programs / "python"), "-m", app), queues="quorum", results=False)


def _dramatiq(programs: Path) -> System:
    app = f"{_SYSTEMS}.dramatiq_app"
    worker = (str(programs / "dramatiq"), app, "--processes", "1", "--threads", "8")
    return System("dramatiq", (worker,), (str(programs / "python"), "-m", app), queues="classic", results=False)
