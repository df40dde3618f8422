"""The commands in the docs, run unchanged against a real coordinator and a demo LLM."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluffle.client.sync import SyncClient
from fluffle.local.config import load
from tests.support.processes import ROOT, fluffle, until
from tests.support.rabbitmq import ON_RABBITMQ_4, private_node

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment of a user whose private node has a coordinator and the LLM ada."""
    folder = tmp_path_factory.mktemp("examples")
    with (
        private_node(folder) as node,
        fluffle("coordinator", url=node.url, state=folder, until="ready"),
        fluffle("worker", "ada", "--model", "demo", "--skills", "summarise", url=node.url, state=folder),
    ):
        yield user(node.url, folder)


def user(url: str, state: Path) -> dict[str, str]:
    """Return the environment of a user with this Fluffle on the path."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": programs, "FLUFFLE_AMQP_URL": url, "FLUFFLE_STATE_DIR": str(state)}


def blocks(page: Path, heading: str) -> str:
    """Return the shell commands under a heading of a page."""
    _, found, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", rest.split("\n## ", 1)[0], re.MULTILINE | re.DOTALL))


def run(commands: str, *, folder: Path, environment: dict[str, str]) -> str:
    """Return the output of the commands, run by a shell in that folder. Fails when one of them fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(program: str, package: str) -> None:
    """Skip the test if an external program is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed; it is in the package {package}")


def test_the_shell_example_prints_the_answer(environment: dict[str, str]) -> None:
    needs("amqp-publish", "amqp-tools")
    printed = run(blocks(EXAMPLES / "README.md", "Shell"), folder=EXAMPLES, environment=environment)
    assert '"status":"completed"' in printed
    assert "demo (offline extractive summariser)" in printed


def test_the_commands_of_the_readme_for_any_client_print_the_answer(environment: dict[str, str]) -> None:
    needs("amqp-publish", "amqp-tools")
    if ON_RABBITMQ_4:
        pytest.skip("they ask the private node for its URL")
    printed = run(blocks(ROOT / "README.md", "From any AMQP client"), folder=ROOT, environment=environment)
    assert '"status":"completed"' in printed


def test_the_plain_pika_example_prints_the_answer(environment: dict[str, str]) -> None:
    example, _ = filter(None, blocks(EXAMPLES / "README.md", "Python, with plain pika").splitlines())
    printed = run(example, folder=EXAMPLES, environment=environment)
    assert re.search(r"^task.accepted: .+\ntask.completed: .+", printed)


def test_the_plain_pika_example_of_a_remote_call_prints_the_result(environment: dict[str, str]) -> None:
    _, example = filter(None, blocks(EXAMPLES / "README.md", "Python, with plain pika").splitlines())
    assert re.fullmatch(r"(?s)(?!task\.).+ .+", run(example, folder=EXAMPLES, environment=environment))


def test_the_node_example_prints_the_answer(environment: dict[str, str]) -> None:
    needs("node", "nodejs")
    if not (EXAMPLES / "node/node_modules/amqplib").is_dir():
        pytest.skip("amqplib is not installed: npm install --prefix examples/node")
    _, example = blocks(EXAMPLES / "README.md", "Node").splitlines()
    assert re.search(r"^task.accepted: .+\ntask.completed: .+", run(example, folder=EXAMPLES, environment=environment))


def test_the_commands_of_the_quickstart_give_the_llm_work(environment: dict[str, str]) -> None:
    printed = run(blocks(ROOT / "docs/quickstart.md", "Give it work"), folder=ROOT, environment=environment)
    assert "demo (offline extractive summariser)" in printed
    assert re.search(r"^ada\s+online\b", printed, re.MULTILINE)
    assert re.search(r"^Completed:\s+[1-9]", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "parts", "heading"),
    [("digest", 2, "Rounds"), ("debate", 4, "Decision by judy")],
)
def test_an_example_team_completes_its_plan(tmp_path: Path, name: str, parts: int, heading: str) -> None:
    """Run the commands of the page while `fluffle up` runs the example team."""
    folder = EXAMPLES / name
    with (
        private_node(tmp_path) as node,
        fluffle("up", "-c", str(folder / "fluffle.toml"), url=node.url, state=tmp_path),
        SyncClient(node.url) as client,
    ):
        team = len(load(folder / "fluffle.toml").llms)
        until(lambda: [llm.state for llm in client.llms()] == ["online"] * team, "the team is there", within=60)
        environment = user(node.url, tmp_path)
        commands = re.search(r"^```sh\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        assert commands is not None
        printed = run(commands[1], folder=ROOT, environment=environment)
    assert "demo (offline extractive summariser)" in printed
    assert len(re.findall(r"^[├└]─ .* completed ", printed, re.MULTILINE)) == parts
    assert f"\n{heading}\n" in printed
