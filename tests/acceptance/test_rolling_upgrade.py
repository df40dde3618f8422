"""The previous version, from this repository's history, and the current one on the same database at the same time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.storage.upgrade import HEAD
from tests.support.amqp import Amqp, amqp
from tests.support.earlier_version import version_before
from tests.support.processes import Process, until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger
from tests.support.thoroughness import slow

WORKER = ("--handler", "tests.support.recording_llms:work", "--slots", "4")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the modules of the previous version."""
    try:
        return version_before(tmp_path_factory.mktemp("version"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=slow)])
def site(rabbitmq: NodeInfo, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site on each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    with site_on(rabbitmq, tmp_path, env={"FLUFFLE_DATABASE_URL": url} if url else {}) as site:
        yield site


def submit(client: Amqp, ledger: Ledger, *task_ids: str) -> None:
    for task_id in task_ids:
        client.submit({"id": task_id, "description": "Work"})
    ledger.note(*task_ids)


def schema_of(site: Site) -> str:
    return str(site.select("select version_num from alembic_version")[0][0])


def all_done(site: Site, count: int) -> bool:
    return bool(site.select("select count(*) from tasks where status = 'completed'")[0][0] == count)


def test_a_leader_of_the_previous_version_works_until_the_new_version_takes_over(site: Site, before: Path) -> None:
    ledger, old = Ledger(site), site.coordinator(version=before)
    first = schema_of(site)
    assert first < HEAD, "the old one has made the database as it knows it"
    site.worker("ada", *WORKER, env=ledger.env)
    with amqp(site.url) as client:
        submit(client, ledger, *(f"before-{n}" for n in range(20)))
        new = site.coordinator(until="standing by")
        assert schema_of(site) == HEAD
        submit(client, ledger, *(f"between-{n}" for n in range(20)))
        until(lambda: all_done(site, 40), "the old leader has seen to all of it")
        assert old.alive
        submit(client, ledger, *(f"after-{n}" for n in range(20)))
        old.terminate()
        assert old.wait() == 0
        new.wait_for("leading")
        until(lambda: all_done(site, 60), "the new one has seen to the rest")
    site.drain()
    assert ledger.problems() == []


def test_a_killed_leader_of_the_previous_version_leaves_no_task_unfinished(site: Site, before: Path) -> None:
    ledger, old = Ledger(site), site.coordinator(version=before)
    site.worker("ada", *WORKER, env=ledger.env)
    new = site.coordinator(until="standing by")
    with amqp(site.url) as client:
        submit(client, ledger, *(f"t-{n}" for n in range(40)))
        old.kill()
        new.wait_for("leading")
        until(lambda: all_done(site, 40), "the new one has done what the old one left")
    site.drain()
    assert ledger.problems() == []


def test_the_previous_version_is_refused_with_a_clear_error_after_the_upgrade(site: Site, before: Path) -> None:
    site.coordinator()
    late: Process = site.coordinator(until=None, version=before)
    assert late.wait() == 1
    assert f"the database has schema {HEAD}, this Fluffle knows" in late.output
    assert "use a newer " in late.output, "the version before says it in its own words"
