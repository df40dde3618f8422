"""A private node with a nearly full disk blocks publishing: all commands that start or show it report that."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.node.private_node import PrivateNode
from tests.support import small_disk as disk
from tests.support.processes import fluffle, with_children
from tests.support.shell import Shell

pytestmark = pytest.mark.skipif(bool(disk.why_not()), reason=disk.why_not())

BLOCKED = 5  # exit code
WORDS = "RabbitMQ accepts no messages: low on disk"
FILE = '[fluffle]\nweb = false\n[llm.obi]\nmodel = "demo"\n'


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder on a disk of 24 MB, of which a private node wants 100 free."""
    with disk.small_disk() as folder:
        try:
            yield folder
        finally:
            PrivateNode(folder).stop()


def test_start_and_status_say_that_the_disk_is_nearly_full(state: Path) -> None:
    shell = Shell("", state)
    started = shell.run("broker", "start")
    assert started.returncode == BLOCKED, started.stderr.decode()
    assert f"{WORDS}, " in started.stdout.decode()
    assert f"MB are free at {state / 'broker'}. It accepts them again when enough is free" in started.stdout.decode()
    assert WORDS in shell("broker", "status", code=BLOCKED)
    assert json.loads(shell("broker", "status", "--json", code=BLOCKED))["alarm"].startswith(WORDS)
    shell("broker", "stop")
    assert json.loads(shell("broker", "status", "--json", code=1))["alarm"] is None


def test_up_says_that_the_disk_is_nearly_full(state: Path, tmp_path: Path) -> None:
    (tmp_path / "fluffle.toml").write_text(FILE)
    with fluffle("up", "-c", str(tmp_path / "fluffle.toml"), url="", state=state) as up, with_children(up):
        up.wait_for(f"up          │ {WORDS}", within=60)
        up.wait_for('coordinator │ {"event": "RabbitMQ at', within=60)


def test_the_demo_ends_with_the_reason_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A rabbit.\n" * 100)
    command = ("demo", "--model", "demo", str(tmp_path / "text.txt"))
    with (
        disk.small_disk() as folder,
        fluffle(*command, url="", state=tmp_path, env={"TMPDIR": str(folder)}) as demo,
    ):
        assert demo.wait(within=120) == BLOCKED
        assert f"Error: {WORDS}" in demo.output
        assert os.listdir(folder) == []
