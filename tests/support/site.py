"""A site for tests: a broker with empty queues, a state folder, and processes that end with the test."""

import asyncio
import os
import secrets
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import (
    COORDINATOR,
    QUERIES,
    REJECTED,
    SHARED,
    UNDELIVERED,
    llm_address,
    user_address,
    work_queue,
)
from tests.support.amqp import amqp
from tests.support.postgres import ON_POSTGRESQL, Postgres, shared
from tests.support.processes import Process, fluffle, until
from tests.support.rabbitmq import NodeInfo


class Site:
    """Coordinators and workers on one broker, with one database."""

    def __init__(
        self,
        rabbitmq: NodeInfo,
        state: Path,
        *,
        server: Postgres | None = None,
        disk: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Create a site; `env` are settings of all its processes.

        The database is a new one of `server`, or else a SQLite file; in the folder `disk` if one is given.
        """
        self.env = {**(env or {})}
        self._name = f"books_{secrets.token_hex(4)}"
        if server is not None:
            self.env["FLUFFLE_DATABASE_URL"] = server.create(self._name, disk)
        elif disk is not None:
            self.env["FLUFFLE_DATABASE_URL"] = f"sqlite:///{disk / 'fluffle.db'}"
        self.server = server
        self.rabbitmq = rabbitmq
        self.url = rabbitmq.url
        self.state = state
        self._sqlite = (disk or state) / "fluffle.db"
        reading = f"sqlite:///file:{self._sqlite}?mode=ro&uri=true"
        self._database = self.env.get("FLUFFLE_DATABASE_URL", reading) if disk is None or server else reading
        self.coordinators: list[Process] = []
        self.workers: list[Process] = []
        self.queues = {REJECTED, COORDINATOR, QUERIES, UNDELIVERED}
        self._running = ExitStack()

    def coordinator(
        self,
        *,
        until: str | None = "ready",
        url: str | None = None,
        altered: Sequence[str] = (),
        version: Path | None = None,
        inside: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Process:
        """Start a coordinator, optionally on another `url`, and wait until it has printed `until`."""
        process = self._running.enter_context(
            fluffle(
                "coordinator",
                url=url or self.url,
                state=self.state,
                until=until,
                env={**self.env, **(env or {}), **settings},
                altered=altered,
                version=version,
                inside=inside,
            )
        )
        self.coordinators.append(process)
        return process

    def worker(
        self,
        name: str,
        *options: str,
        until: str | None = "ready",
        url: str | None = None,
        altered: Sequence[str] = (),
        inside: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Process:
        """Start a worker, optionally on another `url`, and wait until it has printed `until`."""
        self.queues |= {work_queue(name), llm_address(name)}
        process = self._running.enter_context(
            fluffle(
                "worker",
                name,
                *options,
                url=url or self.url,
                state=self.state,
                until=until,
                env={**self.env, **(env or {}), **settings},
                altered=altered,
                inside=inside,
            )
        )
        self.workers.append(process)
        return process

    def person(self, name: str) -> str:
        """Remove the mailbox of this person with the site; return the name."""
        self.queues.add(user_address(name))
        return name

    def select(self, query: str) -> list[Any]:
        """Return rows of the database, read from outside."""
        engine = create_engine(self._database, poolclass=NullPool)
        with engine.connect() as connection:
            return list(connection.execute(text(query)))

    def execute(self, statement: str) -> None:
        """Change the database behind the coordinator's back."""
        if self.server is not None:
            with create_engine(self._database, poolclass=NullPool).begin() as writing:
                writing.execute(text(statement))
            return
        with closing(sqlite3.connect(self._sqlite, timeout=30, isolation_level=None)) as connection:
            connection.execute(statement)

    @property
    def sqlite(self) -> Path:
        """Return the file of the database. Skips the test on PostgreSQL."""
        if self.server is not None:
            pytest.skip("this is about the file of SQLite")
        return self._sqlite

    def kill_and_restart_rabbitmq(self) -> None:
        """End the private node with `kill -9`, and restart it with the same data."""
        node = self.rabbitmq.node
        assert node is not None, "this broker is not ours to kill"
        pid = node.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: node.status().state == "crashed", "the node is dead")
        assert node.start() == self.url

    @contextmanager
    def locked_database(self) -> Iterator[None]:
        """Hold the lock of the database during the block."""
        if "postgresql" in self._database:
            with create_engine(self._database, poolclass=NullPool).begin() as connection:
                connection.execute(text("LOCK TABLE leader IN ACCESS EXCLUSIVE MODE"))
                yield
            return
        with closing(sqlite3.connect(self._sqlite, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def read_only_database(self) -> Iterator[None]:
        """Make the database read-only during the block: by a setting of PostgreSQL or attributes of the files."""
        if self.server is not None:
            with self.server.read_only():
                yield
            return
        files = [self._sqlite, self._sqlite.with_name(f"{self._sqlite.name}-wal")]
        there = [str(file) for file in files if file.exists()]
        _change_attribute("+i", there)
        try:
            yield
        finally:
            _change_attribute("-i", there)

    def suspend_between_transactions(self, coordinator: Process) -> None:
        """Suspend a coordinator, but not while it holds the lock of the database, which would block all others."""
        coordinator.suspend()
        while self._is_locked():
            coordinator.resume()
            coordinator.suspend()

    def _is_locked(self) -> bool:
        if "postgresql" in self._database:
            return False  # its row lock does not block the whole database
        with closing(sqlite3.connect(self._sqlite, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def drain(self, *, within: float = 60) -> None:
        """Wait until all is idle, then stop workers and coordinators cleanly.

        Unacknowledged messages are in their queues again after that.
        """
        with amqp(self.url) as client:

            def at_rest() -> bool:
                if any(client.depth(queue) for queue in (COORDINATOR, QUERIES)):
                    return False
                return not self.select("select 1 from llms where instances != '{}'")

            _end(self.workers)
            until(at_rest, "every worker has left, and the coordinator has heard and answered all", within=within)
        _end(self.coordinators)

    def close(self) -> None:
        """End every process, and remove the queues and the database."""
        self._running.close()
        if self.server is not None:
            self.server.drop(self._name)
        with amqp(self.url) as client:
            client.delete(*self.queues)


@cache
def why_never_read_only(folder: Path) -> str:
    """Return why open files in this folder cannot be made read-only, or an empty text."""
    with NamedTemporaryFile(dir=folder) as file:
        try:
            _change_attribute("+i", [file.name])
        except (OSError, AssertionError) as error:
            return f"files cannot be made read-only here: {error}"
        _change_attribute("-i", [file.name])
    return ""


def _change_attribute(change: str, files: Sequence[str]) -> None:
    """Run chattr, because permissions affect neither root nor open files."""
    done = subprocess.run(["chattr", change, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.strip()


def _end(processes: list[Process]) -> None:
    running = [process for process in processes if process.alive]
    for process in running:
        process.terminate()
    for process in running:
        assert process.wait() == 0, f"{process.name} did not end well:\n{process.output}"


@contextmanager
def site_on(
    rabbitmq: NodeInfo,
    state: Path,
    *,
    server: Postgres | None = None,
    disk: Path | None = None,
    env: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Site]:
    """Create a site with exchanges and empty queues.

    FLUFFLE_TEST_DATABASE=postgresql puts the databases of all sites into PostgreSQL.
    """
    env = {**(env or {}), **settings}
    if ON_POSTGRESQL and disk is None and "FLUFFLE_DATABASE_URL" not in env:
        server = server or shared()
    site = Site(rabbitmq, state, server=server, disk=disk, env=env)
    with amqp(site.url) as client:
        client.delete(*site.queues)
    asyncio.run(_declare(site.url))
    try:
        yield site
    finally:
        site.close()


async def _declare(url: str) -> None:
    async with RobustConnection(url, name="test") as link:
        await link.declare(SHARED)
