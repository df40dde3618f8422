"""Floods are refused with a reason, and no secret is shown."""

import json
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from pika.exceptions import NackError

from tests.support.amqp import Amqp, amqp
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.task_audit import Ledger

MOST = 50  # limit of the inbox in these tests; the declared one is a million messages


@pytest.fixture
def small_inbox(rabbitmq: NodeInfo, site: Site) -> Site:
    """A site with a small inbox."""
    policy = ("--apply-to", "queues", "small", "^fluffle.coordinator$", json.dumps({"max-length": MOST}))
    rabbitmq.control("set_policy", *policy)
    return site


def flood(client: Amqp, count: int) -> int:
    """Publish tasks until RabbitMQ refuses one; return how many it accepted."""
    taken = 0
    with suppress(NackError):
        for number in range(count):
            client.submit({"id": f"flood-{number}", "description": "-", "assignee": "llm"})
            taken += 1
    return taken


def test_a_flood_is_refused_with_a_reason_and_accepted_tasks_are_completed(
    rabbitmq: NodeInfo, small_inbox: Site, ledger: Ledger
) -> None:
    site, shell = small_inbox, Shell(small_inbox.url, small_inbox.state)
    try:
        with amqp(site.url) as client:
            client.publish("fluffle.status", "llm.hello", {"name": "llm", "instance": "gone"})
            taken = flood(client, 10 * MOST)
        assert taken < 2 * MOST, "a quorum queue may take a few more than its limit, not twice as many"
        told = shell.error("task", "submit", "one more", "--id", "late")
        assert "its queue is full" in told
        assert "Try again" in told
        assert "its queue is full" in shell.error("task", "cancel", "flood-0")
    finally:
        rabbitmq.control("clear_policy", "small")
    site.coordinator()
    site.worker("llm", "--handler", "tests.support.recording_llms:work", "--slots", "10", env=ledger.env)
    shell("task", "submit", "one more", "--id", "late", "--assignee", "llm", "--wait")
    until(lambda: ledger.done() == taken + 1, "everything that was taken is done")


def test_no_password_is_printed_logged_or_given_on_a_command_line(site: Site, tmp_path: Path) -> None:
    password = urlsplit(site.url).password
    assert password is not None
    coordinator = site.coordinator(FLUFFLE_LOG_LEVEL="DEBUG")
    worker = site.worker("llm", "--model", "demo", FLUFFLE_LOG_LEVEL="DEBUG")
    shell = Shell(site.url, site.state)
    printed = shell("task", "submit", "anything", "--assignee", "llm", "--wait")
    wrong = Shell(site.url.replace(password, f"{password}-wrong"), tmp_path)
    for command in (("llm", "list"), ("coordinator",), ("worker", "llm", "--model", "demo"), ("broker", "init")):
        printed += wrong.error(*command)
    printed += Shell(f"amqp://user:{password}@127.0.0.1:port", tmp_path).error("llm", "list")
    printed += Shell(f"ftp://user:{password}@127.0.0.1", tmp_path).error("llm", "list")
    assert "refused the user" in printed
    for text in (printed, coordinator.output, worker.output):
        assert password not in text
    for process in (coordinator, worker):
        assert not any(password in part for part in psutil.Process(process.pid).cmdline())


def test_the_database_is_for_its_owner_alone_where_others_may_look_into_its_folder(site: Site) -> None:
    site.state.chmod(0o755)
    site.coordinator()
    Shell(site.url, site.state)("task", "submit", "a secret", "--assignee", "nobody", "--force")
    files = list(site.sqlite.parent.glob(f"{site.sqlite.name}*"))
    assert {file.name for file in files} >= {"fluffle.db", "fluffle.db-wal", "fluffle.db-shm"}
    assert [file.name for file in files if stat.S_IMODE(file.stat().st_mode) != 0o600] == []
