"""compose.yaml, run by a real container engine."""

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.processes import COMMAND, ROOT

TASK = ("task", "submit", "Summarise the text", "--input", '{"text": "A fluffle digs. It has long ears."}')


class Compose:
    """The services of compose.yaml as a separate project, on free ports."""

    def __init__(self) -> None:
        self.project = f"fluffle-test-{secrets.token_hex(4)}"
        self.port = free_port()
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FLUFFLE_", "RABBITMQ_"))}
        ports = {"RABBITMQ_PORT": str(self.port), "RABBITMQ_MANAGEMENT_PORT": str(free_port())}
        self._environment = {**inherited, **ports}

    def __call__(self, *args: str, timeout: float = 60) -> str:
        """Return the output of `docker compose ARGS`. Fails with its error."""
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, *args],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fluffle(self, *args: str) -> str:
        """Return the output of `fluffle ARGS` in the coordinator's container."""
        return self("exec", "--no-TTY", "coordinator", "fluffle", *args)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def needs_an_engine() -> None:
    """Skip the test without a container engine with compose."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no container engine: {(done.stderr or done.stdout).strip().splitlines()[0]}")


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """Start the services and wait until they are healthy."""
    needs_an_engine()
    services = Compose()
    try:
        services("up", "--wait", timeout=600)
        yield services
    finally:
        services("down", "--volumes", "--timeout", "5")
        subprocess.run(["docker", "image", "rm", services.project], capture_output=True, check=False)


def test_a_task_submitted_inside_the_containers_is_completed(compose: Compose) -> None:
    assert "demo (offline extractive summariser)" in compose.fluffle(*TASK, "--wait")


def test_a_task_submitted_from_the_host_goes_to_the_worker_that_has_its_skill(compose: Compose) -> None:
    done = subprocess.run(
        [COMMAND, *TASK, "--skills", "review", "--wait", "--json"],
        env={**os.environ, "FLUFFLE_AMQP_URL": f"amqp://fluffle:fluffle@127.0.0.1:{compose.port}"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    task = json.loads(done.stdout)
    assert (task["status"], task["llm"]) == ("completed", "bela")


def test_tasks_outlive_the_containers(compose: Compose) -> None:
    compose.fluffle(*TASK, "--id", "kept", "--wait")
    compose("down")
    compose("up", "--wait", timeout=180)
    assert json.loads(compose.fluffle("task", "show", "kept", "--json"))["status"] == "completed"
