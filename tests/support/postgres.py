"""A private PostgreSQL for tests: a separate cluster in a separate folder, on a free port of 127.0.0.1.

with postgres() as server:
    url = server.create("books")
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, LiteralString

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

ON_POSTGRESQL = os.environ.get("FLUFFLE_TEST_DATABASE") == "postgresql"
_INSTALLED = Path("/usr/lib/postgresql")
_READY_WITHIN = 30.0  # seconds


class Postgres:
    """A cluster that can be stopped and restarted. Databases are named by their URL for SQLAlchemy."""

    def __init__(self, programs: Path, folder: Path, account: str | None) -> None:
        self.programs = programs
        self._folder = folder
        self._account = account  # PostgreSQL refuses to run as root
        self._port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        letters = ("--encoding=UTF8", "--locale=C", "--lc-ctype=C.UTF-8")
        self._run("initdb", "--username=fluffle", "--auth=trust", *letters, "--no-sync")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    self.programs / "postgres",
                    *("-D", self._folder / "data", "-p", str(self._port), "-h", "127.0.0.1"),
                    *("-c", "unix_socket_directories=", "-c", "fsync=off"),
                ],
                stdout=log,
                stderr=log,
                user=self._account,
            )
        deadline = time.monotonic() + _READY_WITHIN
        while not self._answers():
            alive = self._server.poll() is None and time.monotonic() < deadline
            assert alive, f"PostgreSQL does not start:\n{(self._folder / 'log').read_text()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server, regardless of its connections."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
            self._server = None

    def create(self, name: str, place: Path | None = None) -> str:
        """Create an empty database, in that folder if one is given, and return its URL."""
        self._execute(sql.SQL("CREATE DATABASE {}"), name)
        if place is not None:
            place.chmod(0o700)
            if self._account is not None:
                shutil.chown(place, self._account)
            with self._connect() as connection:
                where = sql.Literal(str(place))
                connection.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(name), where))
            self._execute(sql.SQL("ALTER DATABASE {0} SET TABLESPACE {0}"), name)
        return f"postgresql+psycopg://fluffle@127.0.0.1:{self._port}/{name}"

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Make all databases read-only during the block, also for existing connections."""
        self._configure("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            self._configure("RESET default_transaction_read_only")

    def _configure(self, change: LiteralString) -> None:
        with self._connect("-c default_transaction_read_only=off") as connection:
            connection.execute(sql.SQL("ALTER SYSTEM ") + sql.SQL(change))
            connection.execute("SELECT pg_reload_conf()")

    def drop(self, name: str) -> None:
        """Remove a database, regardless of its connections."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)
        self._execute(sql.SQL("DROP TABLESPACE IF EXISTS {}"), name)

    def _execute(self, statement: sql.SQL, name: str) -> None:
        with self._connect() as connection:
            connection.execute(statement.format(sql.Identifier(name)))

    def _connect(self, options: str = "") -> "psycopg.Connection[tuple[object, ...]]":
        address = f"host=127.0.0.1 port={self._port} user=fluffle dbname=postgres"
        return psycopg.connect(address, autocommit=True, options=options)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self._folder / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, user=self._account, check=False)
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres_or_skip() -> Iterator["Postgres"]:
    """Run a PostgreSQL during the block; skip the tests where PostgreSQL is not installed."""
    try:
        with postgres() as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a private cluster; remove it at the end. Raises FileNotFoundError without PostgreSQL."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="fluffle-postgres-"))
    server = None
    try:
        account = _account()
        if account:
            shutil.chown(folder, account)
        server = Postgres(programs, folder, account)
        server.start()
        yield server
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder)


@contextmanager
def pgbouncer(url: str, mode: Literal["session", "transaction"]) -> Iterator[str]:
    """Run PgBouncer with four sessions before the database. Raises FileNotFoundError without PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("PgBouncer is not installed")
    server, account, port = make_url(url), _account(), _free_port()
    with tempfile.TemporaryDirectory(prefix="fluffle-pgbouncer-") as folder:
        configuration, log = Path(folder) / "pgbouncer.ini", Path(folder) / "log"
        configuration.write_text(
            f"[databases]\n* = host={server.host} port={server.port} user={server.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = 4\nlogfile = {log}\n"
        )
        if account:
            for path in (Path(folder), configuration):
                shutil.chown(path, account)
        pooler = subprocess.Popen([program, "-q", str(configuration)], user=account)
        try:
            deadline = time.monotonic() + _READY_WITHIN
            while not _listens(port):
                assert pooler.poll() is None, f"PgBouncer does not start:\n{log.read_text() if log.exists() else ''}"
                assert time.monotonic() < deadline, "PgBouncer does not listen"
                time.sleep(0.02)
            yield server.set(port=port).render_as_string(hide_password=False)
        finally:
            pooler.terminate()
            pooler.wait()


@cache
def shared() -> Postgres:
    """Return the cluster that all sites of this process use by default, if ON_POSTGRESQL."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(postgres())


def _programs() -> Path:
    """Return the folder of `initdb` and `postgres`: the newest one of Debian, else the one on PATH."""
    installed = [path.parent for path in _INSTALLED.glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda path: float(path.parent.name))
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise FileNotFoundError("PostgreSQL is not installed: there is no initdb")


def _account() -> str | None:
    """Return the account to run as: None for the current user, unless that is root."""
    if os.geteuid() != 0:
        return None
    known = {account.pw_name for account in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
