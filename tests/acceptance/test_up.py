"""`fluffle up`: all programs of a file, as real processes."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from broker.node.private_node import PrivateNode
from tests.support.processes import COMMAND, ROOT, Process, fluffle, until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on

FILE = """
[fluffle]
lease = 3
web = false

[llm.obi]
handler = "tests.support.scripted_llm:obey"
skills = { obey = 0.9 }
slots = 2

[llm.tia]
exec = "sh -c 'cat; echo $COLOUR'"
skills = ["talk"]
instructions = "Be brief."
env = { COLOUR = "blue" }
"""


@pytest.fixture
def place(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site with a file for `fluffle up` and no running program."""
    with site_on(rabbitmq, tmp_path) as site:
        site.queues |= {"llm.obi.work", "llm.tia.work"}
        (tmp_path / "fluffle.toml").write_text(FILE)
        yield site


@contextmanager
def up(site: Site) -> Iterator[Process]:
    """Run `fluffle up` with that file, and wait until all programs are ready."""
    with fluffle("up", "-c", str(site.state / "fluffle.toml"), url=site.url, state=site.state) as process:
        for program in ("coordinator", "obi", "tia"):
            process.wait_for(f"{program}: ready")
        try:
            yield process
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.alive else []
            process.end()
            for child in children:  # none is left unless the test has failed
                with suppress(psutil.NoSuchProcess):
                    child.kill()


@contextmanager
def up_without_url(state: Path) -> Iterator[Process]:
    """Run `fluffle up` with the file in that state folder, without other environment variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLUFFLE_")}
    log = state / "up.log"
    with log.open("wb") as out:
        command = [str(COMMAND), "up", "-c", str(state / "fluffle.toml")]
        environment["FLUFFLE_STATE_DIR"] = str(state)
        popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
    process = Process("fluffle up", popen, log)
    try:
        yield process
    finally:
        process.end()
        print(process.output)


def result_of(site: Site, *arguments: str) -> str:
    """Return the output of `fluffle task submit --wait`."""
    with fluffle("task", "submit", *arguments, "--wait", url=site.url, state=site.state) as submitting:
        assert submitting.wait() == 0, submitting.output
        return submitting.output


def programs(process: Process) -> dict[str, psutil.Process]:
    """Return the programs that `fluffle up` runs, by the names that it shows."""
    found = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if words:  # else it has just ended
                found[words[words.index("worker") + 1] if "worker" in words else words[-1]] = child
    return found


def test_up_starts_and_stops_all_programs_in_order(place: Site) -> None:
    with up(place) as process:
        assert result_of(place, "anything", "-k", "obey") == "anything\n"
        said = result_of(place, "say", "-k", "talk")
        assert "Be brief." in said
        assert said.endswith("blue\n")
        running = programs(process)
        assert running.keys() == {"coordinator", "obi", "tia"}
        process.terminate()
        assert process.wait() == 0
    assert not any(child.is_running() for child in running.values())
    lines = process.output.splitlines()
    left = [number for number, line in enumerate(lines) if ": left" in line]
    assert [line.split("│")[0].strip() for line in lines if "│" in line].count("up") == 1
    assert len(left) == 2


def test_up_starts_the_web_page_unless_the_file_turns_it_off(place: Site) -> None:
    (place.state / "fluffle.toml").write_text(FILE.replace("web = false", "web_port = 0"))
    with up(place) as process:
        process.wait_for("web: ready at http://127.0.0.1:")
        process.wait_for("web: to work: http://127.0.0.1:")
        assert programs(process).keys() == {"coordinator", "web", "obi", "tia"}
        process.terminate()
        assert process.wait() == 0


def test_up_restarts_a_program_that_ends(place: Site) -> None:
    with up(place) as process:
        programs(process)["obi"].kill()
        process.wait_for("ended with signal SIGKILL; starting again in 1 s")
        assert result_of(place, "anything", "-k", "obey") == "anything\n"
        programs(process)["coordinator"].kill()
        until(lambda: process.output.count("starting again in 1 s") == 2, "the coordinator is started again")
        assert result_of(place, "anything", "-k", "obey") == "anything\n"


def test_the_first_signal_lets_the_llms_finish_their_tasks(place: Site) -> None:
    gate = place.state / "gate"
    with up(place) as process:
        inputs = json.dumps({"until": str(gate), "answer": "through"})
        waiting = ("task", "submit", "wait", "--input", inputs, "-k", "obey", "--wait")
        with fluffle(*waiting, url=place.url, state=place.state) as submitting:
            process.wait_for("task started")
            process.terminate()
            process.wait_for("stopping; the LLMs finish their tasks")
            process.wait_for("tia: left")
            until(lambda: programs(process).keys() == {"coordinator", "obi"}, "tia has ended")
            gate.touch()
            assert process.wait() == 0
            assert submitting.wait() == 0
            assert submitting.output == "through\n"


def test_a_second_signal_stops_the_llms_at_once(place: Site) -> None:
    with up(place) as process:
        inputs = json.dumps({"until": str(place.state / "never")})
        submitting = ("task", "submit", "wait", "--input", inputs, "-k", "obey")
        with fluffle(*submitting, url=place.url, state=place.state) as submitted:
            submitted.wait()
        process.wait_for("task started")
        running = programs(process)
        os.kill(process.pid, signal.SIGINT)
        process.wait_for("stopping; the LLMs finish their tasks")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130
    assert not any(child.is_running() for child in running.values())


def test_up_stops_when_its_terminal_closes(place: Site) -> None:
    command = [str(COMMAND), "up", "-c", str(place.state / "fluffle.toml")]
    environment = {**os.environ, "FLUFFLE_AMQP_URL": place.url, "FLUFFLE_STATE_DIR": str(place.state)}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # regardless of what these tests have inherited
        os.execve(command[0], command, environment)
    try:
        printed = b""
        while not all(f"{name}: ready".encode() in printed for name in ("coordinator", "obi", "tia")):
            printed += os.read(terminal, 65_536)
        running = psutil.Process(pid).children()
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not any(child.is_running() for child in running)


def test_up_continues_without_a_terminal_under_nohup(place: Site) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        with up(place) as process:
            os.kill(process.pid, signal.SIGHUP)
            assert result_of(place, "anything", "-k", "obey") == "anything\n"
            assert "stopping" not in process.output
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("ran_before", [False, True])
def test_up_leaves_the_private_node_running_only_if_it_ran_before(ran_before: bool, tmp_path: Path) -> None:
    node = PrivateNode(tmp_path)
    (tmp_path / "fluffle.toml").write_text(FILE)
    try:
        if ran_before:
            node.start()
        with up_without_url(tmp_path) as process:
            process.wait_for("obi: ready", within=60)
            assert node.status().state == "running"
            process.terminate()
            assert process.wait(within=60) == 0
        assert node.status().state == ("running" if ran_before else "stopped")
    finally:
        node.stop()


def test_a_second_up_in_the_same_folder_stops_with_an_error(tmp_path: Path) -> None:
    node = PrivateNode(tmp_path)
    (tmp_path / "fluffle.toml").write_text(FILE.replace("[fluffle]", "[fluffle]\nleader_lease = 1"))
    try:
        with up_without_url(tmp_path) as first:
            first.wait_for("obi: ready", within=60)
            with fluffle("up", "-c", str(tmp_path / "fluffle.toml"), url="", state=tmp_path) as second:
                assert second.wait() == 1
                assert f"Error: another `fluffle up` uses the state folder {tmp_path} " in second.output
                assert f"(process {first.pid}): stop it first" in second.output
            assert node.status().state == "running"
            assert programs(first).keys() == {"coordinator", "obi", "tia"}
            left = programs(first).values()
            first.kill()
            for program in left:  # they continue without it
                program.kill()
            with fluffle("up", "-c", str(tmp_path / "fluffle.toml"), url="", state=tmp_path) as third:
                third.wait_for("coordinator: ready", within=60)
                third.terminate()
                assert third.wait(within=60) == 0
    finally:
        node.stop()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (None, "Error: there is no "),
        ('[llm.obi]\nhandlr = "x:y"', "llm.obi.handlr: unknown key; did you mean handler?"),
        ('[llm.obi]\nhandler = "x:y"', "Error: the AMQP URL must begin"),
    ],
)
def test_a_missing_or_wrong_file_is_reported_in_one_line(file: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "fluffle.toml"
    if file is not None:
        path.write_text(file)
    with fluffle("up", "-c", str(path), url="http://x", state=tmp_path) as process:
        assert process.wait() == 1
        assert said in process.output
        assert process.output.count("\n") == 1
