"""One RabbitMQ has one database: a coordinator with another database, or with a copy, is refused."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import Process
from tests.support.site import Site


def refused(second: Process) -> bool:
    ended = second.wait()
    assert "it uses a different database: this one uses sqlite:///" in second.output
    assert "for several machines, use PostgreSQL" in second.output
    assert "Traceback" not in second.output
    return ended == 1


@pytest.mark.usefixtures("in_sqlite")
def test_a_coordinator_with_another_database_is_refused(site: Site, tmp_path: Path) -> None:
    site.coordinator(until="leading")
    assert refused(site.coordinator(until=None, FLUFFLE_DATABASE_URL=f"sqlite:///{tmp_path / 'other.db'}"))


@pytest.mark.parametrize("left", ["in good order", "as it was"])
def test_a_coordinator_with_a_copy_of_the_database_on_another_machine_is_refused(
    site: Site, tmp_path: Path, left: str
) -> None:
    database, first = site.sqlite, site.coordinator(until="leading")
    first.terminate()
    assert first.wait() == 0
    copy = tmp_path / "copy.db"
    shutil.copy(database, copy)
    if left == "as it was":
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            connection.execute("update leader set holder = 'elsewhere:1:1'")
    site.coordinator(until="leading")
    assert refused(site.coordinator(until=None, FLUFFLE_DATABASE_URL=f"sqlite:///{copy}", FLUFFLE_LEADER_LEASE="1"))


def test_a_coordinator_takes_over_the_database_of_a_lost_machine(site: Site, tmp_path: Path) -> None:
    first = site.coordinator(until="leading")
    first.kill()
    site.execute("update leader set holder = 'elsewhere:1:1'")
    site.coordinator(until="leading", FLUFFLE_LEADER_LEASE="1")
