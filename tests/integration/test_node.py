"""The private RabbitMQ node, with the real server."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pika
import psutil
import pytest
from click.testing import CliRunner, Result
from pika.exceptions import ProbableAuthenticationError

from broker.errors import NodeError
from broker.node.container import engine_has_image
from broker.node.private_node import NodeStartFailed, PrivateNode, running_url
from broker.node.server import SERVER_VARIABLE, RabbitMQNotFound
from broker.protocol.topology import SHARED
from fluffle.cli.processes.broker import broker

TEXTS = [f"message {number}".encode() for number in range(50)]


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a node that runs. A test that stops or kills it brings it back."""
    folder = tmp_path_factory.mktemp("a folder with späces")
    node = PrivateNode(folder)
    try:
        node.start()
        yield folder
    finally:
        node.stop()


def processes_of(node: PrivateNode) -> list[psutil.Process]:
    """Everything that lives with the node's folder as its home: the server, its helpers and the port mapper."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(node.folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(condition: Callable[[], bool], *, within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


def publish(url: str, queue: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    for text in TEXTS:
        channel.basic_publish("", queue, text, pika.BasicProperties(delivery_mode=2), mandatory=True)
    connection.close()


def waiting_in(url: str, queue: str) -> list[bytes]:
    """The messages of a queue, which are left there."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    found: list[bytes] = []
    while len(found) < len(TEXTS):
        _, _, body = channel.basic_get(queue)
        if body is None:
            break
        found.append(body)
    connection.close()
    return found


def test_a_node_listens_on_loopback_only_and_not_on_the_usual_ports(state_dir: Path) -> None:
    listening = [
        connection.laddr
        for process in processes_of(PrivateNode(state_dir))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    assert len({address.port for address in listening}) == 3  # AMQP, distribution, port mapper
    assert not {address.port for address in listening} & {5672, 4369, 25672}


def test_a_node_lets_in_its_own_user_and_nobody_else(state_dir: Path) -> None:
    url = running_url(state_dir)
    assert url
    pika.BlockingConnection(pika.URLParameters(url)).close()
    for user in ("guest:guest", "fluffle:guess"):
        with pytest.raises(ProbableAuthenticationError):
            pika.BlockingConnection(pika.URLParameters(f"amqp://{user}@127.0.0.1:{port_of(url)}/%2F"))


def test_data_and_logs_are_for_their_owner_alone(state_dir: Path) -> None:
    node = PrivateNode(state_dir)
    running_url(state_dir)
    files = [file for place in ("log", "data") for file in (node.folder / place).rglob("*") if file.is_file()]
    assert {"console.log", "rabbitmq.log"} <= {file.name for file in files}
    assert [file for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077] == []


def test_the_password_is_readable_by_its_owner_only_and_not_shown(state_dir: Path) -> None:
    node = PrivateNode(state_dir)
    password = urlsplit(running_url(state_dir)).password
    assert isinstance(password, str)
    assert password not in str(node.status())
    for file in node.folder.rglob("*"):
        if file.is_file() and password.encode() in file.read_bytes():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700
    command_lines = [" ".join(process.cmdline()) for process in processes_of(node)]
    assert command_lines
    assert not any(password in line for line in command_lines)


def test_starting_a_running_node_changes_nothing(state_dir: Path) -> None:
    node = PrivateNode(state_dir)
    before = node.status()
    assert before.state == "running"
    assert before.pid
    assert psutil.pid_exists(before.pid)
    assert before.since
    assert node.start() == running_url(state_dir)
    assert node.status() == before


def test_a_killed_node_is_noticed_and_the_next_command_brings_it_back_with_its_messages(
    state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = PrivateNode(state_dir)
    url = running_url(state_dir)
    assert url
    publish(url, "killed")
    pid = node.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.status().state == "crashed")
    assert running_url(state_dir) == url
    assert "has crashed; starting it again" in caplog.text
    assert node.status().pid != pid
    assert waiting_in(url, "killed") == TEXTS


def test_a_stopped_node_leaves_nothing_running_and_comes_back_with_its_messages(state_dir: Path) -> None:
    node = PrivateNode(state_dir)
    url = node.start()
    publish(url, "stopped")
    assert node.stop()
    assert processes_of(node) == []
    assert node.status().state == "stopped"
    assert not node.stop()
    assert running_url(state_dir) is None
    with socket.create_server(("127.0.0.1", port_of(url))):  # somebody else took its port meanwhile
        moved = node.start()
        assert port_of(moved) != port_of(url)
        assert waiting_in(moved, "stopped") == TEXTS


def starter(state_dir: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from fluffle.cli.main import main; main()", "broker", "start"],
        env=os.environ | {"FLUFFLE_STATE_DIR": str(state_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_commands_that_start_a_node_at_once_or_die_meanwhile_start_one_and_touch_no_other(
    state_dir: Path, tmp_path: Path
) -> None:
    first_url = PrivateNode(state_dir).start()
    node = PrivateNode(tmp_path)
    starters = [starter(tmp_path)]
    try:
        until(lambda: node.status().state == "starting")
        starters[0].kill()
        starters += [starter(tmp_path), starter(tmp_path)]
        told = [command.communicate(timeout=120) for command in starters]
        assert [command.returncode for command in starters] == [-signal.SIGKILL, 0, 0], told
        status = node.status()  # the commands have ended, the node has not
        assert status.state == "running"
        assert [str(status.url) in out for out, _ in told] == [False, True, True]
        servers = [process for process in processes_of(node) if process.name() == "beam.smp"]
        assert [server.pid for server in servers] == [status.pid]
        second_url = running_url(tmp_path)
        assert second_url
        publish(first_url, "apart")
        publish(second_url, "apart")
        assert waiting_in(second_url, "apart") == TEXTS
    finally:
        for command in starters:
            command.kill()
            command.communicate()
        node.stop()
    assert processes_of(node) == []
    assert PrivateNode(state_dir).status().state == "running"
    assert waiting_in(first_url, "apart") == TEXTS


def broker_command(*arguments: str, state_dir: Path) -> Result:
    return CliRunner().invoke(broker, arguments, env={"FLUFFLE_STATE_DIR": str(state_dir), "FLUFFLE_AMQP_URL": None})


def test_the_status_command_tells_machines_and_people_how_the_node_is(state_dir: Path, tmp_path: Path) -> None:
    url = PrivateNode(state_dir).start()
    told = json.loads(broker_command("status", "--json", state_dir=state_dir).stdout)
    assert told["state"] == "running"
    assert urlsplit(told["url"]).port == port_of(url)
    assert urlsplit(told["url"]).password is None
    assert broker_command("status", "--url", state_dir=state_dir).stdout == f"{url}\n"
    assert f"pid:     {told['pid']}\n" in broker_command("status", state_dir=state_dir).stdout
    for arguments in (["status"], ["status", "--json"], ["status", "--url"]):
        none = broker_command(*arguments, state_dir=tmp_path)
        assert none.exit_code == 1
        assert "stopped" in none.output


def test_the_init_command_declares_the_topology(state_dir: Path) -> None:
    url = PrivateNode(state_dir).start()
    for _ in range(2):
        result = broker_command("init", state_dir=state_dir)
        assert result.exit_code == 0, result.output
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for queue in SHARED.queues:
            connection.channel().queue_declare(queue.name, passive=True)


def server_script(folder: Path, body: str) -> str:
    script = folder / "rabbitmq-server"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return str(script)


def test_a_node_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = server_script(tmp_path, "echo noise; echo BOOT FAILED; echo the disk is full; exit 1")
    monkeypatch.setenv(SERVER_VARIABLE, script)
    with pytest.raises(NodeStartFailed, match=r"(?s)broker start.*log.*BOOT FAILED\nthe disk is full$"):
        PrivateNode(tmp_path).start()


def test_a_node_that_hangs_is_reported_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, server_script(tmp_path, "trap '' TERM\nwhile :; do sleep 1; done"))
    node = PrivateNode(tmp_path)
    with pytest.raises(NodeStartFailed, match="may still be starting"):
        node.start(timeout=0.2)
    assert node.status().state == "starting"
    assert node.stop(timeout=0.2)
    assert node.status().state == "stopped"
    until(lambda: processes_of(node) == [])


def test_a_wrong_server_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "/nowhere/rabbitmq-server")
    with pytest.raises(RabbitMQNotFound, match="FLUFFLE_RABBITMQ_SERVER is /nowhere/rabbitmq-server"):
        PrivateNode(tmp_path).start()
    assert PrivateNode(tmp_path).status().state == "stopped"


def test_a_folder_that_cannot_be_used_is_named() -> None:
    with pytest.raises(NodeError, match="/dev/null/state/broker cannot be used"):
        PrivateNode(Path("/dev/null/state")).start()


@pytest.mark.skipif(not engine_has_image(), reason="no container engine with RabbitMQ's image")
def test_a_node_in_a_container_keeps_its_messages_when_killed_and_is_gone_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "docker")
    node = PrivateNode(tmp_path)
    try:
        url = node.start()
        status = node.status()
        assert (status.state, status.runs_as) == ("running", "container")
        publish(url, "contained")
        name = json.loads((node.folder / "node.json").read_text())["name"]
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)
        assert node.status().state == "crashed"
        assert running_url(tmp_path) == url
        assert waiting_in(url, "contained") == TEXTS
    finally:
        node.stop()
    containers = ["docker", "ps", "--all", "--quiet", "--filter", f"name={name}"]
    assert subprocess.run(containers, capture_output=True, check=True).stdout == b""
    subprocess.run(["docker", "volume", "rm", name], check=True, capture_output=True)
