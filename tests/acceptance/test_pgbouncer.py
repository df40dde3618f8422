"""The database behind PgBouncer, whose clients share a few sessions of PostgreSQL."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psycopg
import pytest
from sqlalchemy import text

from coordinator.storage.engine import open_engine
from fluffle.client.client import Client
from fluffle.client.handle import TaskHandle
from tests.support.postgres import Postgres, pgbouncer, postgres_or_skip
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on

TASKS = 200
WORK = ("--handler", "tests.support.scripted_llm:obey", "--skills", "obey", "--slots", "20")
Mode = Literal["session", "transaction"]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_or_skip() as server:
        yield server


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_tasks_are_completed_with_the_database_behind_pgbouncer(
    rabbitmq: NodeInfo, server: Postgres, tmp_path: Path, mode: Mode
) -> None:
    direct = server.create(f"books_{mode}")
    with (
        pgbouncer(direct, mode) as url,
        site_on(rabbitmq, tmp_path, FLUFFLE_DATABASE_URL=url, FLUFFLE_LEADER_LEASE="2") as site,
    ):
        first = site.coordinator()
        site.coordinator(until="standing by")
        site.worker("obi", *WORK)
        asyncio.run(do_tasks(site))
        first.kill()  # the standby takes over
        asyncio.run(do_tasks(site))
        assert site.select("select count(*) from tasks where status = 'completed'") == [(2 * TASKS,)]
        for coordinator in site.coordinators:
            assert "waiting for the database" not in coordinator.output


async def do_tasks(site: Site) -> None:
    """Submit tasks, wait for their answers, and ask for a report."""
    async with Client(site.url) as client:
        texts = [str(number) for number in range(TASKS)]
        fates = [fate async for fate in client.submit_many(texts)]
        assert [await fate.result(60) for fate in fates if isinstance(fate, TaskHandle)] == texts
        assert (await client.report("summary")).values["completed_tasks"] >= TASKS


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_no_setting_is_left_in_a_session_of_pgbouncer(server: Postgres, mode: Mode) -> None:
    with pgbouncer(server.create(f"settings_{mode}"), mode) as url:
        writer, reader = open_engine(url), open_engine(url, read_only=True)
        with writer.begin() as connection:
            assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5s"
            assert connection.scalar(text("SHOW transaction_read_only")) == "off"
        with reader.begin() as connection:
            assert connection.scalar(text("SHOW transaction_read_only")) == "on"
            assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            assert other.execute("SHOW idle_in_transaction_session_timeout").fetchall() == [("0",)]
            assert other.execute("SHOW default_transaction_read_only").fetchall() == [("off",)]
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]
        writer.dispose()
        reader.dispose()


def test_statements_are_prepared_on_postgresql_itself(server: Postgres) -> None:
    engine = open_engine(server.create("direct"))
    with engine.begin() as connection:
        for number in range(20):
            connection.execute(text("SELECT :number + 1"), {"number": number})
        assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) > 0
    engine.dispose()
