"""Backup of the database of a running coordinator, and restore after a disaster."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.amqp import Amqp, amqp
from tests.support.postgres import Postgres, postgres
from tests.support.processes import COMMAND, until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger

WORKER = ("--handler", "tests.support.recording_llms:work", "--slots", "4")


def fluffle(site: Site, *args: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "FLUFFLE_STATE_DIR": str(site.state), **site.env}
    return subprocess.run([COMMAND, *args], env=env, capture_output=True, text=True, check=False, timeout=60)


def completed(site: Site) -> int:
    return int(site.select("select count(*) from tasks where status = 'completed'")[0][0])


def submit(client: Amqp, ledger: Ledger, name: str, count: int) -> None:
    for number in range(count):
        client.submit({"id": f"{name}-{number}", "description": "Work"})
        ledger.note(f"{name}-{number}")


def test_a_backup_taken_under_load_is_complete_and_restores_its_content(
    site: Site, client: Amqp, tmp_path: Path
) -> None:
    database, ledger, coordinator = site.sqlite, Ledger(site), site.coordinator()
    worker = site.worker("ada", *WORKER, env=ledger.env)
    submit(client, ledger, "before", 100)
    until(lambda: completed(site) > 10, "some are done, and some are not")
    taken = fluffle(site, "database", "backup", str(tmp_path / "copy.db"))
    assert taken.returncode == 0, taken.stderr
    assert coordinator.alive
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    until(lambda: completed(site) == 100, "work goes on")
    worker.terminate()
    assert worker.wait() == 0
    coordinator.kill()

    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    back = fluffle(site, "database", "restore", "--yes", str(tmp_path / "copy.db"))
    assert back.returncode == 0, back.stderr
    known = site.select("select count(*) from tasks")[0][0]
    assert known > 10
    assert back.stdout == f"restored {known} tasks\n"
    again = site.coordinator()
    site.worker("ada", *WORKER, env=ledger.env)
    until(lambda: completed(site) == known, "all that it knows is done", within=90)
    assert again.alive


@pytest.mark.usefixtures("in_sqlite")
def test_restore_does_not_replace_the_database_of_a_running_leader(site: Site, tmp_path: Path) -> None:
    coordinator = site.coordinator()
    copy = tmp_path / "copy.db"
    assert fluffle(site, "database", "backup", str(copy)).returncode == 0
    refused = fluffle(site, "database", "restore", "--yes", str(copy))
    assert refused.returncode == 1
    assert "a coordinator leads on" in refused.stderr
    assert "stop the coordinator first" in refused.stderr
    unasked = fluffle(site, "database", "restore", str(copy))
    assert (unasked.stdout, unasked.stderr) == ("", refused.stderr), "it is refused before anybody is asked"
    assert coordinator.alive
    coordinator.terminate()
    assert coordinator.wait() == 0
    assert fluffle(site, "database", "restore", "--yes", str(copy)).returncode == 0


@pytest.mark.usefixtures("in_sqlite")
def test_a_restored_database_starts_a_new_epoch(site: Site, client: Amqp, tmp_path: Path) -> None:
    ledger, leader = Ledger(site), site.coordinator()
    site.worker("ada", *WORKER, env=ledger.env)
    submit(client, ledger, "first", 5)
    until(lambda: completed(site) == 5, "they are done")
    copy = tmp_path / "copy.db"
    assert fluffle(site, "database", "backup", str(copy)).returncode == 0
    term = site.select("select epoch from leader")[0][0]
    leader.kill()
    restored = fluffle(site, "database", "restore", "--yes", str(copy))
    assert restored.returncode == 0, restored.stderr
    assert site.select("select epoch from leader")[0][0] > term, "nobody goes on in the term of before"
    next_one = site.coordinator()
    submit(client, ledger, "second", 5)
    until(lambda: completed(site) == 10, "and so are these")
    assert next_one.alive


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(4096)])
def test_a_file_that_is_no_backup_is_not_restored(site: Site, tmp_path: Path, content: bytes) -> None:
    database, coordinator = site.sqlite, site.coordinator()
    coordinator.terminate()
    assert coordinator.wait() == 0
    before = database.read_bytes()
    (tmp_path / "copy.db").write_bytes(content)
    refused = fluffle(site, "database", "restore", "--yes", str(tmp_path / "copy.db"))
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert "Traceback" not in refused.stderr
    assert database.read_bytes() == before


@pytest.mark.usefixtures("in_sqlite")
def test_a_backup_overwrites_no_file_and_leaves_no_partial_file(site: Site, tmp_path: Path) -> None:
    assert "there is no database" in fluffle(site, "database", "backup", str(tmp_path / "copy.db")).stderr
    site.coordinator()
    (tmp_path / "copy.db").write_text("mine")
    refused = fluffle(site, "database", "backup", str(tmp_path / "copy.db"))
    assert (refused.returncode, "exists already" in refused.stderr) == (1, True)
    assert [file.read_text() for file in tmp_path.glob("*copy*")] == ["mine"]


def test_backup_names_the_tool_to_use_for_postgresql(site: Site, tmp_path: Path) -> None:
    site.env["FLUFFLE_DATABASE_URL"] = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    told = fluffle(site, "database", "backup", str(tmp_path / "copy.db"))
    assert (told.returncode, "pg_dump" in told.stderr) == (1, True)
    assert "pg_restore" in fluffle(site, "database", "restore", "--yes", str(tmp_path / "copy.db")).stderr


def test_postgresql_is_backed_up_under_load_and_restored_with_its_own_tools(rabbitmq: NodeInfo, tmp_path: Path) -> None:
    with postgres_or_skip() as server:
        first, second = server.create("first"), server.create("second")
        dump = tmp_path / "copy.dump"
        with site_on(rabbitmq, tmp_path / "first", FLUFFLE_DATABASE_URL=first) as site, amqp(site.url) as client:
            ledger, coordinator = Ledger(site), site.coordinator()
            worker = site.worker("ada", *WORKER, env=ledger.env)
            submit(client, ledger, "before", 100)
            until(lambda: completed(site) > 10, "some are done, and some are not")
            run(server, "pg_dump", "--format=custom", f"--file={dump}", plain(first))
            until(lambda: completed(site) == 100, "work goes on")
            worker.terminate()
            assert worker.wait() == 0
            coordinator.kill()
        run(server, "pg_restore", "--clean", "--if-exists", f"--dbname={plain(second)}", str(dump))
        with site_on(rabbitmq, tmp_path / "second", FLUFFLE_DATABASE_URL=second) as site:
            site.coordinator()
            site.worker("ada", *WORKER, env=Ledger(site).env)
            known = site.select("select count(*) from tasks")[0][0]
            assert known > 10
            until(lambda: completed(site) == known, "all that it knows is done", within=90)


def plain(url: str) -> str:
    """Return a database URL for PostgreSQL's own tools."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def run(server: Postgres, program: str, *args: str) -> None:
    subprocess.run([server.programs / program, *args], check=True, timeout=60)


@contextmanager
def postgres_or_skip() -> Iterator[Postgres]:
    """Run a separate PostgreSQL."""
    try:
        with postgres() as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))
