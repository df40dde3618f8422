"""Hints on a terminal while a task waits, and the output after Ctrl-C."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from broker.ids import uuid7
from tests.support.processes import fluffle
from tests.support.shell import Shell
from tests.support.site import Site
from tests.support.waiting_tasks import waiting_task


def test_a_terminal_shows_what_a_waiting_task_waits_for(shell: Shell, gate: Path) -> None:
    def on_sight(printed: str) -> None:
        if "in_progress at obi" in printed:
            gate.touch()

    inputs = json.dumps({"until": str(gate), "answer": "through"})
    printed = shell.on_terminal("task", "submit", "x", "--input", inputs, "-k", "obey", "--wait", seeing=on_sight)
    assert printed.rstrip().endswith("through")


def test_a_terminal_shows_that_no_llm_can_do_a_task(shell: Shell) -> None:
    task_id, told = shell.on_terminal("task", "submit", "x", "-k", "summarize").splitlines()
    assert re.fullmatch(r"[0-9a-f-]{36}", task_id)
    assert told == "The task waits: no LLM that was ever seen has the skill summarize; did you mean summarise?"


def test_ctrl_c_prints_how_to_wait_for_the_task_again(shell: Shell) -> None:
    keys = ["\x03"]  # Ctrl-C

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and "pending" in printed else None

    task_id = f"left-{uuid7()}"
    printed = shell.on_terminal("task", "submit", "x", "-k", "nobody-can", "--id", task_id, "--wait", seeing=on_sight)
    assert printed.rstrip().endswith(f"The task continues. To wait for it again: fluffle task wait {task_id}")


def test_ctrl_c_prints_how_to_wait_for_a_plan_again(shell: Shell, tmp_path: Path) -> None:
    keys = ["\x03"]  # Ctrl-C

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and "0/2" in printed else None

    file, run = tmp_path / "plan.toml", f"left-{uuid7()[-8:]}"
    file.write_text('[task.one]\nfor_each = ["a", "b"]\ndescription = "{{ item }}"\nskills = ["nobody-can"]')
    printed = shell.on_terminal("task", "submit", str(file), "--id", run, "--wait", seeing=on_sight)
    told = f"The tasks continue. To wait for them again, run the same command with --id {run}"
    assert printed.rstrip().endswith(told)


@pytest.mark.parametrize("labelled", [True, False])
def test_ctrl_c_prints_how_to_wait_for_many_tasks_again(shell: Shell, tmp_path: Path, *, labelled: bool) -> None:
    keys = ["\x03"]
    label = f"left-{uuid7()}"
    ids = [f"left-{uuid7()}" for _ in range(2)]
    lines = tmp_path / "tasks.jsonl"
    lines.write_text(
        "".join(json.dumps({"id": id_, "description": "x", "skills": ["nobody-can"]}) + "\n" for id_ in ids)
    )
    options = ("-l", label) if labelled else ()

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and "finished" in printed else None

    printed = shell.on_terminal("task", "submit", str(lines), "--wait", *options, seeing=on_sight)
    again = f"--label {label}" if labelled else " ".join(ids)
    told = " ".join(printed.split())
    assert told.endswith(f"Interrupted. 2 of 2 tasks continue. To wait for them again: fluffle task wait {again}")


def test_ctrl_c_during_a_submission_prints_what_was_sent(place: Site, shell: Shell, tmp_path: Path) -> None:
    keys = ["\x03"]
    ids = [f"sent-{uuid7()}" for _ in range(2)]
    lines = tmp_path / "tasks.jsonl"
    lines.write_text("\n".join(json.dumps({"id": id_, "description": "x"}) for id_ in ids))

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and printed.count("submitted") > 3 else None  # it is drawn anew all the time

    coordinator = place.coordinators[0]
    place.suspend_between_transactions(coordinator)  # so nobody answers
    try:
        printed = shell.on_terminal("task", "submit", str(lines), seeing=on_sight)
    finally:
        coordinator.resume()
    *_, one, two, told = printed.rstrip().split("\n")
    assert [one[-len(ids[0]) :], two] == ids
    assert told == "Interrupted. Sent: 2 of 2 tasks; accepted tasks continue; no answer yet for the last 2"


def test_an_interrupted_command_ends_cleanly(shell: Shell, place: Site, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    with fluffle("task", "watch", task_id, url=place.url, state=place.state, until="in_progress") as watching:
        before = watching.output
        os.kill(watching.pid, signal.SIGINT)
        assert watching.wait() == 130
        assert watching.output[len(before) :].strip() == ""
    gate.touch()
