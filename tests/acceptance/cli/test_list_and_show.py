"""`fluffle task list` and `fluffle task show`, in a pipe and on a terminal."""

import json
import re
import subprocess

from broker.ids import uuid7
from tests.support.amqp import amqp
from tests.support.processes import COMMAND, ROOT, until
from tests.support.shell import Shell
from tests.support.site import Site


def test_list_in_a_pipe_is_tab_separated_newest_first(shell: Shell) -> None:
    label = f"list-{uuid7()}"
    ids = [shell("task", "submit", f"say\n{n}", "-k", "obey", "-l", label, "-w", "--json") for n in range(3)]
    ids = [json.loads(line)["id"] for line in ids]
    rows = [line.split("\t") for line in shell("task", "list", "--label", label).splitlines()]
    assert [row[0] for row in rows] == ids[::-1]
    assert rows[0][1:4] == ["completed", "4", "obi"]
    assert rows[0][5:] == ["", "say 2"]
    assert len(shell("task", "list", "-l", label, "--limit", "2").splitlines()) == 2
    assert shell("task", "list", "-l", label, "--status", "failed", "--status", "pending") == ""
    assert [view["id"] for view in shell.json("task", "list", "-l", label, "--llm", "obi", "--text", "1")] == [ids[1]]


def test_list_on_a_terminal_has_headings_colours_and_fits(shell: Shell) -> None:
    shell("task", "submit", "long " * 100, "-k", "obey", "--wait")
    printed = shell.on_terminal("task", "list", "-n", "1")
    heading, row = printed.splitlines()
    assert "STATUS" in heading
    assert "\x1b[32mcompleted" in row
    assert "ago" in row
    assert len(re.sub(r"\x1b\[[0-9;]*m", "", row)) <= 100
    assert "\x1b[32m" not in shell.on_terminal("task", "list", "-n", "1", NO_COLOR="1")


def test_a_remark_leaves_room_for_the_description_on_a_terminal(shell: Shell) -> None:
    label = f"remark-{uuid7()}"
    shell("task", "submit", "Summarise", "--due", "2020-01-01", "-d", "never", "-l", label)
    until(lambda: shell.json("task", "list", "-l", label)[0]["overdue"], "it is overdue")
    _, row = shell.on_terminal("task", "list", "-l", label, COLUMNS="140").splitlines()
    assert "[overdue, waiting for task never, not submitted] Summarise" in row
    _, row = shell.on_terminal("task", "list", "-l", label).splitlines()
    assert "[overdue" in row
    [line] = shell("task", "list", "-l", label).splitlines()
    assert line.split("\t")[5:] == ["overdue, waiting for task never, not submitted", "Summarise"]


def test_a_pipe_that_closes_early_is_not_an_error(shell: Shell) -> None:
    lines = "".join(f'{{"description": "{"x" * 500}", "not_before": "2090-01-01T00:00:00Z"}}\n' for _ in range(500))
    shell("task", "submit", "--json-lines", "-", given=lines)
    command = f"{COMMAND} task list -n 500 | head -n 1"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=shell.environment, capture_output=True, timeout=60)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_a_full_disk_is_an_error_of_one_line(shell: Shell) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "task", "list", "--help"], env=shell.environment, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == b"Error: No space left on device\n"


def test_show_prints_the_timeline(shell: Shell) -> None:
    task_id = json.loads(shell("task", "submit", "x", "-k", "obey", "-w", "--json"))["id"]
    shell("task", "retry", task_id)
    shell("task", "wait", task_id)
    printed = shell("task", "show", task_id)
    _, timeline = printed.split("\nTimeline\n")
    told = [line.split("  ", 2)[-1].strip() for line in timeline.split("\n\n")[0].splitlines()]
    steps = [re.sub(r"^\+\S+ \S+ +", "", step) for step in told]
    expected = (
        "submitted",
        "attempt 1 assigned to obi: ",
        "attempt 1 started at ",
        "attempt 1 completed after ",
        "retried after it was completed",
        "ready",
        "attempt 2 assigned to obi: ",
        "attempt 2 started at ",
        "attempt 2 completed after ",
        "completed",
    )
    assert [step[: len(start)] for step, start in zip(steps, expected, strict=True)] == list(expected)
    assert "3 tokens in, 5 tokens out" in printed
    assert printed.endswith("\nResult\nx\n")


def test_show_with_json_prints_the_answer_of_the_coordinator(shell: Shell, place: Site) -> None:
    task_id = json.loads(shell("task", "submit", "x", "-k", "obey", "-w", "--json"))["id"]
    with amqp(place.url) as client:
        [answer] = client.ask_directly("fluffle.queries", "task", {"id": task_id}, 1)
    assert shell("task", "show", task_id, "--json").encode() == answer.body + b"\n"


def test_control_characters_in_texts_do_not_reach_the_terminal(shell: Shell) -> None:
    hostile = json.dumps({"answer": "\x1b[2Jgone\x07"})
    task_id = json.loads(shell("task", "submit", "\x1b[31mred", "--input", hostile, "-k", "obey", "-w", "--json"))["id"]
    printed = shell.on_terminal("task", "show", task_id)
    assert "[2Jgone" in printed
    assert "\x1b[2J" not in printed
    assert "\x1b[31mred" not in printed + shell.on_terminal("task", "list", "-n", "1")


def test_the_earlier_result_of_a_retried_task_is_shown_with_its_attempt(shell: Shell) -> None:
    task_id = shell("task", "submit", "first", "-k", "obey", "--wait", "--json").strip()
    task_id = json.loads(task_id)["id"]
    shell("task", "retry", task_id, "--description", "second")
    shell("task", "wait", task_id)
    shown = shell("task", "show", task_id)
    assert "Result of attempt 1, before the retry\nfirst\n" in shown
    assert shown.rstrip().endswith("Result\nsecond")
    assert [attempt.get("result") for attempt in shell.json("task", "show", task_id)["attempts"]] == ["first", None]
