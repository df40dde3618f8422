"""`fluffle task submit --json-lines`: many tasks at once."""

import json
import re
from pathlib import Path

from broker.ids import uuid7
from tests.support.shell import Shell


def test_json_lines_are_submitted_in_order_with_the_options_as_defaults(shell: Shell) -> None:
    label = f"many-{uuid7()}"
    lines = '{"description": "one"}\n\n{"description": "two", "labels": ["own"], "priority": 9}\n'
    ids = shell("task", "submit", "--json-lines", "-", "-l", label, "-p", "2", "-k", "obey", given=lines).split()
    one, two = (shell.json("task", "show", task_id) for task_id in ids)
    assert (one["description"], one["labels"], one["priority"]) == ("one", [label], 2)
    assert (two["description"], two["labels"], two["priority"]) == ("two", ["own"], 9)


def test_a_byte_order_mark_before_json_lines_is_ignored(shell: Shell) -> None:
    lines = '\ufeff{"description": "one"}\n{"description": "two"}\n'
    first, second = shell("task", "submit", "--json-lines", "-", "-k", "obey", given=lines).split()
    assert [shell.json("task", "show", it)["description"] for it in (first, second)] == ["one", "two"]


def test_a_description_that_names_a_jsonl_file_is_read_as_json_lines(shell: Shell, tmp_path: Path) -> None:
    lines = tmp_path / "some.jsonl"
    lines.write_text('{"id": "first-of-file", "description": "x"}\n{"id": "last-of-file", "description": "y"}\n')
    assert shell("task", "submit", str(lines), "-k", "obey").split() == ["first-of-file", "last-of-file"]
    assert b"does not exist" in shell.run("task", "submit", "none.jsonl").stderr


def test_one_bad_line_stops_the_whole_submission(shell: Shell) -> None:
    label = f"bad-{uuid7()}"
    lines = f'{{"description": "x", "labels": ["{label}"]}}\n{{"descripton": "x"}}\nnot json\n'
    done = shell.run("task", "submit", "--json-lines", "-", given=lines)
    assert done.returncode == 1
    first, second, third = done.stderr.decode().splitlines()
    assert first == "Error: line 2: description: Field required; descripton: unknown field"
    assert second.startswith("Error: line 3: Invalid JSON")
    assert third == "Error: nothing was submitted"
    assert shell.json("task", "list", "--label", label) == []


def test_lines_without_a_task_are_an_error(shell: Shell, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    done = shell.run("task", "submit", str(empty))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"Error: {empty} has no tasks; nothing was submitted\n"


def test_a_line_that_the_coordinator_rejects_is_named_and_the_others_continue(shell: Shell) -> None:
    one, two = f"a-{uuid7()}", f"b-{uuid7()}"
    tasks = [
        {"id": one, "description": "x", "depends_on": [two]},
        {"id": two, "description": "x", "depends_on": [one]},
        {"description": "x"},
    ]
    done = shell.run("task", "submit", "--json-lines", "-", given="\n".join(map(json.dumps, tasks)))
    assert done.returncode == 1
    assert re.fullmatch(r"Error: line 2: depends_on: a cycle: .+\n", done.stderr.decode())
    assert len(done.stdout.split()) == 2


def test_many_tasks_can_be_waited_for(shell: Shell) -> None:
    lines = "".join(f'{{"description": "number {number}", "skills": ["obey"]}}\n' for number in range(300))
    ends = shell("task", "submit", "--json-lines", "-", "--wait", given=lines).splitlines()
    assert len(ends) == 300
    assert all(re.fullmatch(r"\S+\tcompleted\t\d+\.\d{3}", end) for end in ends)


def test_one_failed_task_of_many_sets_the_exit_code(shell: Shell) -> None:
    tasks = [
        {"description": "x", "skills": ["obey"], "inputs": {"fail": why} if why else None} for why in ("", "no ink")
    ]
    lines = "\n".join(map(json.dumps, tasks))
    ends = shell("task", "submit", "--json-lines", "-", "--wait", given=lines, code=3).splitlines()
    assert sorted(end.split("\t")[1] for end in ends) == ["completed", "failed"]


def test_lines_appear_above_the_progress_bar(shell: Shell, tmp_path: Path) -> None:
    ids = [f"bar-{uuid7()}" for _ in range(3)]
    lines = tmp_path / "tasks.jsonl"
    lines.write_text("".join(json.dumps({"id": id_, "description": "x", "skills": ["obey"]}) + "\n" for id_ in ids))
    printed = shell.on_terminal("task", "submit", str(lines), "--wait")
    for id_ in ids:
        assert re.search(rf"(^|\n|\r|\x1b\[2K){id_} +(\x1b\[32m)?completed", printed), "on a line of its own"
