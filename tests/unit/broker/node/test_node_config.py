"""The record of a private node, the search for RabbitMQ, and its installation."""

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import NodeError
from broker.node.install import InstallFailed, install_rabbitmq
from broker.node.record import NodeRecord
from broker.node.server import SERVER_VARIABLE, RabbitMQNotFound, find_server


def program(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    return folder


def test_a_record_survives_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    record = NodeRecord.new("process")
    record.save(file)
    assert NodeRecord.load(file) == record
    replace(record, wanted=True).save(file)
    assert NodeRecord.load(file) == replace(record, wanted=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_record_loads_as_none_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert NodeRecord.load(tmp_path / "node.json") is None
    for text in ("{", "[]", '{"name": "x"}'):
        (tmp_path / "node.json").write_text(text)
        with pytest.raises(NodeError, match="cannot be read"):
            NodeRecord.load(tmp_path / "node.json")


def test_each_node_has_its_own_name_password_and_ports() -> None:
    one, other = NodeRecord.new("process"), NodeRecord.new("process")
    assert one.name != other.name
    assert one.password != other.password
    ports = {one.amqp_port, one.distribution_port, one.epmd_port}
    assert len(ports) == 3
    assert all(20_000 <= port < 32_000 for port in ports)


def test_the_url_shows_the_password_only_when_asked() -> None:
    record = replace(NodeRecord.new("process"), password="hunter2", amqp_port=20_001)
    assert record.url(with_password=True) == "amqp://fluffle:hunter2@127.0.0.1:20001/%2F"
    assert record.url(with_password=False) == "amqp://fluffle@127.0.0.1:20001/%2F"


def test_only_a_port_in_use_is_replaced() -> None:
    record = NodeRecord.new("process")
    assert record.with_free_ports() == record
    with socket.create_server(("127.0.0.1", record.distribution_port)):
        moved = record.with_free_ports()
    assert moved == replace(record, distribution_port=moved.distribution_port)
    ports = {moved.amqp_port, moved.distribution_port, moved.epmd_port}
    assert len(ports) == 3
    assert record.distribution_port not in ports


def test_the_variable_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = program(tmp_path, "my-server", "")
    monkeypatch.setenv(SERVER_VARIABLE, str(server))
    assert find_server() == server
    server.chmod(0o644)
    if os.access(server, os.X_OK):
        pytest.fail("a file without x bits counts as executable")
    with pytest.raises(RabbitMQNotFound, match="not a program"):
        find_server()


def test_installing_runs_the_package_manager_and_says_so(programs: Path, tmp_path: Path) -> None:
    program(programs, "brew", f'echo "$@" >{tmp_path}/called')
    said: list[str] = []
    install_rabbitmq(said.append)
    assert (tmp_path / "called").read_text() == "install rabbitmq\n"
    assert "Homebrew" in said[0]
    assert said[-1] == "RabbitMQ is installed."


def test_a_failed_installation_shows_its_last_lines(programs: Path) -> None:
    program(programs, "brew", "echo no bottle for this cider; exit 1")
    with pytest.raises(InstallFailed, match=r"(?s)brew install rabbitmq.*no bottle for this cider"):
        install_rabbitmq(lambda line: None)


def test_without_rights_to_install_the_error_shows_the_command(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(programs, "apt-get", "exit 1")
    program(programs, "sudo", "exit 1")  # it would ask for a password
    with pytest.raises(RabbitMQNotFound, match="sudo apt-get install -y rabbitmq-server"):
        install_rabbitmq(lambda line: None)


def test_on_an_unknown_system_the_error_names_the_download_page(programs: Path) -> None:
    with pytest.raises(RabbitMQNotFound, match=r"https://www\.rabbitmq\.com/docs/download"):
        install_rabbitmq(lambda line: None)
