"""The commands, as people and scripts run them: real processes on a real broker with a real coordinator."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ids import uuid7
from broker.protocol.report_catalog import PREDEFINED
from tests.support.amqp import amqp
from tests.support.processes import COMMAND, ROOT, fluffle, until
from tests.support.rabbitmq import NodeInfo, private_node
from tests.support.shell import Shell
from tests.support.site import Site, site_on

OBEY = ("--handler", "tests.support.scripted_llm:obey", "--slots", "20", "--skills", "obey=0.9,summarise")


@pytest.fixture(scope="module")
def place(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a coordinator and the LLM obi, which does what the inputs of its tasks say."""
    with site_on(rabbitmq, tmp_path_factory.mktemp("cli")) as site:
        site.coordinator()
        site.worker("obi", *OBEY, "--description", "obeys")
        yield site


@pytest.fixture(scope="module")
def shell(place: Site) -> Shell:
    return Shell(place.url, place.state)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that does not exist yet, for tasks that wait for it."""
    return tmp_path / "gate"


def waiting_task(shell: Shell, gate: Path, *options: str) -> str:
    """The id of a task that ends when the gate opens."""
    inputs = json.dumps({"until": str(gate), "answer": "through"})
    return shell("task", "submit", "wait", "--input", inputs, "--skills", "obey", *options).strip()


# -- task submit ---------------------------------------------------------------------------------------------------


def test_submit_prints_the_id_alone(shell: Shell) -> None:
    printed = shell("task", "submit", "anything", "--skills", "obey")
    assert re.fullmatch(r"[0-9a-f-]{36}\n", printed)


def test_submit_and_wait_prints_the_result(shell: Shell) -> None:
    assert shell("task", "submit", "anything", "-k", "obey", "--wait") == "anything\n"
    inputs = json.dumps({"answer": {"rabbits": ["é"]}})
    assert shell("task", "submit", "x", "--input", inputs, "-k", "obey", "--wait") == '{"rabbits": ["é"]}\n'


def test_every_option_of_submit_reaches_the_task(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "string"}')
    first = shell("task", "submit", "first", "-k", "obey").strip()
    own = f"own-{uuid7()}"
    options = {
        "--id": own,
        "--skills": "obey, summarise",
        "--assignee": "obi",
        "--priority": "7",
        "--due": "2030-01-01T00:00Z",
        "--not-before": "2020-01-01T00:00Z",
        "--depends-on": first,
        "--on-dependency-failure": "run",
        "--timeout": "5m",
        "--max-attempts": "2",
        "--output-schema": str(tmp_path / "schema.json"),
        "--label": "one,two",
        "--metadata": "key=value=x",
    }
    arguments = [argument for pair in options.items() for argument in pair]
    view = json.loads(shell("task", "submit", "second", *arguments, "--wait", "--json"))
    expected = {
        "id": own,
        "status": "completed",
        "skills": ["obey", "summarise"],
        "assignee": "obi",
        "priority": 7,
        "depends_on": [first],
        "timeout": 300,
        "max_attempts": 2,
        "output_schema": {"type": "string"},
        "labels": ["one", "two"],
        "metadata": {"key": "value=x"},
    }
    assert {key: view[key] for key in expected} == expected
    assert view["due"].startswith("2030-01-01T00:00:00")


def test_the_description_comes_from_where_it_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "what.txt").write_text("from a file\n")
    assert shell("task", "submit", "--file", str(tmp_path / "what.txt"), "-k", "obey", "-w") == "from a file\n"
    assert shell("task", "submit", "-", "-k", "obey", "-w", given="from a dash\n") == "from a dash\n"
    assert shell("task", "submit", "-k", "obey", "-w", given="from a pipe\n") == "from a pipe\n"


def test_the_text_of_a_file_becomes_inputs(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Täglich.\n")
    view = json.loads(
        shell("task", "submit", "x", "--input-file", str(tmp_path / "report.txt"), "-k", "obey", "--json")
    )
    assert view["inputs"] == {"text": "Täglich.\n"}
    view = json.loads(shell("task", "submit", "x", "--input-file", "-", "-k", "obey", "--json", given="piped"))
    assert view["inputs"] == {"text": "piped"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task", "submit"], "Say what to do"),
        (["task", "submit", "x", "--priority", "10"], "Invalid value for '--priority'"),
        (["task", "submit", "x", "--due", "soon"], "'soon' is neither a moment"),
        (["task", "submit", "x", "--input", "{"], "not JSON"),
        (["task", "submit", "x", "--metadata", "novalue"], "'novalue' is not KEY=VALUE"),
        (["task", "submit", "x", "--json-lines", "-"], "descriptions and ids are in the lines"),
        (["task", "submit", "x", "--input-file", "/nowhere"], "does not exist"),
        (["task", "wait"], "Give the ids of tasks, or --label."),
        (["rejected", "drop"], "Give the ids of messages, or --all."),
    ],
)
def test_wrong_usage_is_said_before_anything_happens(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.error(*arguments, code=2)


def test_a_schema_that_is_none_is_told_before_an_llm_tries(shell: Shell) -> None:
    said = shell.error("task", "submit", "x", "--output-schema", "-", given='{"type": "strong"}', code=2)
    assert said.startswith("-: output_schema is not a JSON Schema: $.type: 'strong' is not valid")


def test_what_the_protocol_forbids_is_named(shell: Shell) -> None:
    assert shell.error("task", "submit", "x", "--label", "Upper").startswith(
        "labels.0: must be 1-63 characters: a-z, 0-9 or "
    )
    assert shell.error("task", "submit", "x", "--id", "with space").startswith("id: must be 1-64 characters: ")


LATIN_1 = b"caf\xe9".decode(errors="surrogateescape")  # an argument that is not UTF-8, as Python gets it


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (("task", "submit", LATIN_1), "description: "),
        (("task", "submit", "x", "-m", f"k={LATIN_1}", "-n"), "metadata: "),
        (("task", "submit", "x", "--input", '{"a": "\\ud800"}', "-n"), "inputs: "),
        (("task", "update", "t-1", "-m", f"k={LATIN_1}"), "t-1: metadata: "),
        (("task", "retry", "t-1", "-m", f"k={LATIN_1}"), "t-1: changes.metadata: "),
        (("task", "cancel", "t-1", "--reason", LATIN_1), "t-1: reason: "),
        (("task", "list", "--text", LATIN_1), "text: "),
        (("message", "send", "obi", LATIN_1), "content: "),
        (("report", LATIN_1), "name: "),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_its_place(shell: Shell, command: tuple[str, ...], path: str) -> None:
    assert shell.error(*command).startswith(f"{path}cannot be encoded as UTF-8")


def test_a_failed_task_has_its_own_exit_code(shell: Shell) -> None:
    arguments = ("task", "submit", "x", "--input", '{"fail": "no ink"}', "-k", "obey", "--wait")
    assert re.search(r"task \S+ failed: broken: no ink", shell.error(*arguments, code=3))
    assert json.loads(shell(*arguments, "--json", code=3))["error"]["message"] == "no ink"


# -- many ----------------------------------------------------------------------------------------------------------


def test_json_lines_are_submitted_in_their_order_with_the_options_as_defaults(shell: Shell) -> None:
    label = f"many-{uuid7()}"
    lines = '{"description": "one"}\n\n{"description": "two", "labels": ["own"], "priority": 9}\n'
    ids = shell("task", "submit", "--json-lines", "-", "-l", label, "-p", "2", "-k", "obey", given=lines).split()
    one, two = (shell.json("task", "show", task_id) for task_id in ids)
    assert (one["description"], one["labels"], one["priority"]) == ("one", [label], 2)
    assert (two["description"], two["labels"], two["priority"]) == ("two", ["own"], 9)


def test_a_byte_order_mark_before_json_lines_is_passed_over(shell: Shell) -> None:
    lines = '\ufeff{"description": "one"}\n{"description": "two"}\n'
    first, second = shell("task", "submit", "--json-lines", "-", "-k", "obey", given=lines).split()
    assert [shell.json("task", "show", it)["description"] for it in (first, second)] == ["one", "two"]


def test_a_description_that_names_json_lines_is_taken_for_them(shell: Shell, tmp_path: Path) -> None:
    lines = tmp_path / "some.jsonl"
    lines.write_text('{"id": "first-of-file", "description": "x"}\n{"id": "last-of-file", "description": "y"}\n')
    assert shell("task", "submit", str(lines), "-k", "obey").split() == ["first-of-file", "last-of-file"]
    assert b"does not exist" in shell.run("task", "submit", "none.jsonl").stderr


def test_one_bad_line_and_nothing_is_submitted(shell: Shell) -> None:
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


def test_a_line_that_the_coordinator_rejects_is_named_and_the_others_go_on(shell: Shell) -> None:
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


def test_many_can_be_waited_for(shell: Shell) -> None:
    lines = "".join(f'{{"description": "number {number}", "skills": ["obey"]}}\n' for number in range(300))
    ends = shell("task", "submit", "--json-lines", "-", "--wait", given=lines).splitlines()
    assert len(ends) == 300
    assert all(re.fullmatch(r"\S+\tcompleted\t\d+\.\d{3}", end) for end in ends)


def test_one_of_many_that_fails_has_its_own_exit_code(shell: Shell) -> None:
    tasks = [
        {"description": "x", "skills": ["obey"], "inputs": {"fail": why} if why else None} for why in ("", "no ink")
    ]
    lines = "\n".join(map(json.dumps, tasks))
    ends = shell("task", "submit", "--json-lines", "-", "--wait", given=lines, code=3).splitlines()
    assert sorted(end.split("\t")[1] for end in ends) == ["completed", "failed"]


# -- task list, show -----------------------------------------------------------------------------------------------


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


def test_a_pipe_that_is_closed_early_is_no_error(shell: Shell) -> None:
    lines = "".join(f'{{"description": "{"x" * 500}", "not_before": "2090-01-01T00:00:00Z"}}\n' for _ in range(500))
    shell("task", "submit", "--json-lines", "-", given=lines)
    command = f"{COMMAND} task list -n 500 | head -n 1"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=shell.environment, capture_output=True, timeout=60)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_a_full_disk_is_one_line(shell: Shell) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [COMMAND, "task", "list", "--help"], env=shell.environment, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == b"Error: No space left on device\n"


def test_lines_that_are_printed_under_way_stand_above_the_bar(shell: Shell, tmp_path: Path) -> None:
    ids = [f"bar-{uuid7()}" for _ in range(3)]
    lines = tmp_path / "tasks.jsonl"
    lines.write_text("".join(json.dumps({"id": id_, "description": "x", "skills": ["obey"]}) + "\n" for id_ in ids))
    printed = shell.on_terminal("task", "submit", str(lines), "--wait")
    for id_ in ids:
        assert re.search(rf"(^|\n|\r|\x1b\[2K){id_} +(\x1b\[32m)?completed", printed), "on a line of its own"


def test_one_who_waits_on_a_terminal_sees_for_what(shell: Shell, gate: Path) -> None:
    def on_sight(printed: str) -> None:
        if "in_progress at obi" in printed:
            gate.touch()

    inputs = json.dumps({"until": str(gate), "answer": "through"})
    printed = shell.on_terminal("task", "submit", "x", "--input", inputs, "-k", "obey", "--wait", seeing=on_sight)
    assert printed.rstrip().endswith("through")


def test_a_task_that_nobody_can_do_is_told_on_a_terminal(shell: Shell) -> None:
    task_id, told = shell.on_terminal("task", "submit", "x", "-k", "summarize").splitlines()
    assert re.fullmatch(r"[0-9a-f-]{36}", task_id)
    assert told == "It waits: no LLM that was ever seen has the skill summarize; did you mean summarise?"


def test_one_who_breaks_off_is_told_how_to_come_back(shell: Shell) -> None:
    keys = ["\x03"]  # Ctrl-C

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and "pending" in printed else None

    task_id = f"left-{uuid7()}"
    printed = shell.on_terminal("task", "submit", "x", "-k", "nobody-can", "--id", task_id, "--wait", seeing=on_sight)
    assert printed.rstrip().endswith(f"The task goes on. To wait for it again: fluffle task wait {task_id}")


def test_one_who_breaks_off_a_plan_is_told_how_to_come_back(shell: Shell, tmp_path: Path) -> None:
    keys = ["\x03"]  # Ctrl-C

    def on_sight(printed: str) -> str | None:
        return keys.pop() if keys and "0/2" in printed else None

    file, run = tmp_path / "plan.toml", f"left-{uuid7()[-8:]}"
    file.write_text('[task.one]\nfor_each = ["a", "b"]\ndescription = "{{ item }}"\nskills = ["nobody-can"]')
    printed = shell.on_terminal("task", "submit", str(file), "--id", run, "--wait", seeing=on_sight)
    told = f"The tasks go on. To wait for them again: the same command with --id {run}"
    assert printed.rstrip().endswith(told)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_who_breaks_off_many_is_told_how_to_come_back(shell: Shell, tmp_path: Path, *, labelled: bool) -> None:
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
    assert told.endswith(f"Broken off. 2 of 2 tasks go on. To wait for them again: fluffle task wait {again}")


def test_one_who_breaks_off_submitting_is_told_what_was_sent(place: Site, shell: Shell, tmp_path: Path) -> None:
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
    assert told == "Broken off. Sent: 2 of 2 tasks, which go on if they were accepted; of the last 2 it is not known"


def test_show_tells_the_timeline(shell: Shell) -> None:
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


def test_show_json_is_what_the_coordinator_answers(shell: Shell, place: Site) -> None:
    task_id = json.loads(shell("task", "submit", "x", "-k", "obey", "-w", "--json"))["id"]
    with amqp(place.url) as client:
        [answer] = client.ask_directly("fluffle.queries", "task", {"id": task_id}, 1)
    assert shell("task", "show", task_id, "--json").encode() == answer.body + b"\n"


def test_hostile_text_does_nothing_to_a_terminal(shell: Shell) -> None:
    hostile = json.dumps({"answer": "\x1b[2Jgone\x07"})
    task_id = json.loads(shell("task", "submit", "\x1b[31mred", "--input", hostile, "-k", "obey", "-w", "--json"))["id"]
    printed = shell.on_terminal("task", "show", task_id)
    assert "[2Jgone" in printed
    assert "\x1b[2J" not in printed
    assert "\x1b[31mred" not in printed + shell.on_terminal("task", "list", "-n", "1")


# -- task wait, watch, cancel, retry -------------------------------------------------------------------------------


def test_wait_ends_with_the_tasks(shell: Shell, place: Site, gate: Path) -> None:
    label = f"wait-{uuid7()}"
    ids = [waiting_task(shell, gate, "-l", label) for _ in range(2)]
    with (
        fluffle("task", "wait", *ids, url=place.url, state=place.state) as one,
        fluffle("task", "wait", "--label", label, url=place.url, state=place.state) as other,
    ):
        soon, late = ("--timeout", "0.2"), "over after 0.2 s"
        assert shell.error("task", "wait", ids[0], *soon, code=4) == f"the task is not {late}"
        assert shell.error("task", "wait", *ids, *soon, code=4) == f"2 of 2 tasks are not {late}"
        assert shell.error("task", "wait", "--label", label, *soon, code=4) == f"not all of the tasks are {late}"
        assert one.alive
        assert other.alive
        gate.touch()
        assert [one.wait(), other.wait()] == [0, 0]
    for process in (one, other):
        assert sorted(line.split("\t")[0] for line in process.output.splitlines()) == sorted(ids)


def test_wait_has_its_own_exit_code_for_tasks_that_were_not_completed(shell: Shell) -> None:
    failing = shell("task", "submit", "x", "--input", '{"fail": "no ink"}', "-k", "obey").strip()
    good = shell("task", "submit", "x", "-k", "obey").strip()
    printed = shell("task", "wait", failing, good, code=3)
    assert re.search(rf"^{failing}\tfailed\t\S+\tbroken: no ink$", printed, re.MULTILINE)
    assert shell.error("task", "wait", "nope") == "id: there is no task nope"
    assert shell.error("task", "wait", "--label", "nobody-has-it") == "no task has the label 'nobody-has-it'"


def test_watch_tells_what_happens_until_the_end(shell: Shell, place: Site, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    with fluffle("task", "watch", task_id, url=place.url, state=place.state, until=task_id) as watching:
        gate.touch()
        assert watching.wait() == 0
    assert watching.output.splitlines()[-1].endswith(f"{task_id}  completed at obi")


def test_watch_shows_the_text_of_the_llm_as_it_comes(shell: Shell, place: Site, gate: Path) -> None:
    script = f"cat > /dev/null; until [ -e {gate} ]; do echo tick; sleep 0.05; done; echo done"
    with fluffle("worker", "tia", "--exec", f"sh -c '{script}'", "-k", "talk", url=place.url, state=place.state):
        task_id = shell("task", "submit", "talk", "-k", "talk").strip()
        with fluffle("task", "watch", task_id, url=place.url, state=place.state, until="tick\n") as watching:
            gate.touch()
            assert watching.wait() == 0
    assert watching.output.splitlines()[-1].endswith(f"{task_id}  completed at tia")


def test_watch_with_json_prints_events(shell: Shell, gate: Path) -> None:
    gate.touch()
    task_id = waiting_task(shell, gate)
    events = [json.loads(line) for line in shell("task", "watch", task_id, "--json").splitlines()]
    assert {event["subject"] for event in events} == {task_id}
    assert (events[-1]["type"], events[-1]["data"]["result"]) == ("fluffle.task.completed", "through")


def test_an_interrupted_command_ends_cleanly(shell: Shell, place: Site, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    with fluffle("task", "watch", task_id, url=place.url, state=place.state, until="in_progress") as watching:
        before = watching.output
        os.kill(watching.pid, signal.SIGINT)
        assert watching.wait() == 130
        assert watching.output[len(before) :].strip() == ""
    gate.touch()


def test_cancel_and_retry_tell_how_the_tasks_stand(shell: Shell, gate: Path) -> None:
    ids = [waiting_task(shell, gate), waiting_task(shell, gate)]
    until(lambda: {shell.json("task", "show", id_)["status"] for id_ in ids} == {"in_progress"}, "both run")
    told = shell("task", "cancel", *ids, "--reason", "no need").splitlines()
    assert told == [f"{id_}\tcancelled\tstopped at obi in attempt 1" for id_ in ids]
    assert "no need (by " in shell("task", "show", ids[0])
    assert shell.error("task", "cancel", "nope") == "nope: id: there is no such task"
    assert "over already" in shell.error("task", "cancel", ids[0])
    gate.touch()
    assert shell.json("task", "retry", ids[0])["id"] == ids[0]
    assert shell("task", "wait", ids[0]).split("\t")[1] == "completed"


# -- llm, report ---------------------------------------------------------------------------------------------------


def test_the_llms_are_listed_and_shown(shell: Shell, gate: Path) -> None:
    task_id = waiting_task(shell, gate)
    until(lambda: shell.json("task", "show", task_id)["status"] == "in_progress", "the task runs")
    [row] = [line.split("\t") for line in shell("llm", "list").splitlines() if line.startswith("obi\t")]
    assert (row[1], row[2].split("/")[1], row[6]) == ("online", "20", "obey=0.9,summarise")
    shown = shell("llm", "show", "obi")
    assert re.search(r"^Description: obeys$", shown, re.MULTILINE)
    assert f"\n{task_id}\n" in shown.split("Tasks in hand")[1]
    assert task_id in shell.json("llm", "show", "obi")["tasks"]
    assert shell.error("llm", "show", "nobody") == "name: there is no LLM nobody"
    gate.touch()
    shell("task", "wait", task_id)


def test_workers_of_one_name_that_differ_say_so_and_are_shown_one_by_one(shell: Shell, place: Site) -> None:
    first = place.worker("twin", "--exec", "cat", "--skills", "copy")
    second = place.worker("twin", "--exec", "tee", "--skills", "copy", "--slots", "2")
    first.wait_for("twin: another worker of this name")
    second.wait_for("twin: another worker of this name")
    assert "has model exec:tee, skills copy; this one" in first.output
    assert "has model exec:cat, skills copy; this one" in second.output
    shown = shell("llm", "show", "twin").split("Its instances differ")[1]
    rows = [line.split() for line in shown.strip().splitlines()]
    assert [(row[1], row[2]) for row in rows[-2:]] == [("exec:cat", "1"), ("exec:tee", "2")]
    first.terminate()
    until(lambda: len(shell.json("llm", "show", "twin")["instances"]) == 1, "the first one has left")
    assert shell.json("llm", "show", "twin")["by_instance"] == []


def test_the_earlier_result_of_a_retried_task_is_shown_with_its_attempt(shell: Shell) -> None:
    task_id = shell("task", "submit", "first", "-k", "obey", "--wait", "--json").strip()
    task_id = json.loads(task_id)["id"]
    shell("task", "retry", task_id, "--description", "second")
    shell("task", "wait", task_id)
    shown = shell("task", "show", task_id)
    assert "Result of attempt 1, before the retry\nfirst\n" in shown
    assert shown.rstrip().endswith("Result\nsecond")
    assert [attempt.get("result") for attempt in shell.json("task", "show", task_id)["attempts"]] == ["first", None]


def test_the_report_is_readable_and_has_its_figures_as_json(shell: Shell) -> None:
    shell("task", "submit", "x", "-k", "obey", "--wait")
    printed = shell("report", "--since", "1h")
    assert re.search(r"^Completed: +[1-9]", printed, re.MULTILINE)
    assert re.search(r"^Mean run time: +\d", printed, re.MULTILINE)
    assert re.search(r"^obi\t\d+", printed.split("Attempts by LLM\n")[1])
    values = shell.json("report", "summary")["values"]
    assert values["completed_tasks"] >= 1
    assert shell.json("report", "--until", "2020-01-01T00:00Z")["values"]["total_tasks"] == 0
    assert "there is no report 'nope'" in shell.error("report", "nope")


def test_a_report_of_ones_own_is_the_same_in_every_format(shell: Shell, tmp_path: Path) -> None:
    shell("task", "submit", "x", "-k", "obey", "-l", "reported", "--wait")
    asked = ("report", "-g", "label,status", "-m", "completed,run_time_mean", "-w", "label=reported")
    view = shell.json(*asked)
    [row] = view["rows"]
    assert (row["label"], row["status"], row["completed"]) == ("reported", "completed", 1)
    assert shell(*asked).split("\t")[:3] == ["reported", "completed", "1"]
    csv = shell(*asked, "--format", "csv")
    assert csv == f"label,status,completed,run_time_mean\nreported,completed,1,{row['run_time_mean']}\n"
    shell(*asked, "--output", str(tmp_path / "report.csv"))
    assert (tmp_path / "report.csv").read_text() == csv
    shell(*asked, "--output", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "reported" in page
    assert re.findall(r"https?://|<script|<link|url\(", page) == []


def test_every_predefined_report_is_printed(shell: Shell) -> None:
    for name in PREDEFINED:
        assert shell.json("report", name, "--since", "1h")["name"] == name
        shell("report", name)


def test_a_report_is_kept_under_a_name_and_dropped(shell: Shell) -> None:
    shell("report", "--group-by", "skill", "--metrics", "completed", "--save", "by-skill")
    assert shell.json("report", "by-skill")["group_by"] == ["skill"]
    assert re.search(r"^by-skill\tskill\t", shell("report", "--list"), re.MULTILINE)
    assert "did you mean by-skill" in shell.error("report", "by-skil")
    shell("report", "--drop", "by-skill")
    assert "by-skill" not in shell("report", "--list")
    assert "there is a report summary already" in shell.error("report", "--metrics", "tasks", "--save", "summary")


def test_a_mistake_in_a_report_is_told_with_what_may_have_been_meant(shell: Shell) -> None:
    assert "did you mean llm?" in shell.error("report", "--group-by", "lllm", code=2)
    assert "did you mean timing?" in shell.error("report", "timming")
    assert "did you mean completed?" in shell.error("report", "--where", "status=complete", code=2)
    assert "have no dimension 'outcome'" in shell.error("report", "--group-by", "outcome", "--metrics", "tasks")


# -- rejected ------------------------------------------------------------------------------------------------------


def test_rejected_messages_are_looked_at_without_losing_any(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        client.publish("fluffle.tasks", "submit", b"{not json", message_id="bad-1")
        client.publish("fluffle.tasks", "submit", b'{"descripton": "x"}')
        client.publish("fluffle.tasks", "nosuchkey", b"\xff\x1b[2J", message_id="with space")
    until(lambda: len(shell.json("rejected", "list")) == 3, "all three are there")
    messages = shell.json("rejected", "list")
    assert messages == shell.json("rejected", "list")
    by_id = {message["id"]: message for message in messages}
    assert by_id["bad-1"]["body"] == "{not json"
    [unnamed] = [m for m in messages if [e["path"] for e in m["errors"]] == ["description", "descripton"]]
    assert re.fullmatch(r"[0-9a-f]{12}", unnamed["id"])
    [unbound] = [m for m in messages if m["routing_key"] == "nosuchkey"]
    assert unbound["why"] == "unknown routing key 'nosuchkey' of exchange 'fluffle.tasks'"
    assert shell("rejected", "list", "--limit", "2").count("\n") == 2
    shown = shell("rejected", "show", unnamed["id"])
    assert "descripton: unknown field" in shown
    assert shown.endswith('Body (19 bytes)\n{"descripton": "x"}\n')
    assert "\x1b[2J" not in shell.on_terminal("rejected", "show", unbound["id"])
    assert shell.error("rejected", "show", "nope") == "there is no rejected message nope"
    assert shell("rejected", "drop", "bad-1", unnamed["id"]) == "2 dropped\n"
    assert [message["id"] for message in shell.json("rejected", "list")] == [unbound["id"]]
    assert shell("rejected", "drop", "--all") == "1 dropped\n"


def test_a_requeued_message_goes_back_as_it_was_where_it_was_published(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        properties = {"message_id": "early", "correlation_id": "c", "priority": 7, "headers": {"traceparent": "00-1"}}
        client.publish("fluffle.tasks", "soon", {"description": "x"}, **properties)
        until(lambda: shell.json("rejected", "list"), "it is rejected")
        queue = client.queue(("fluffle.tasks", "soon"))
        assert shell("rejected", "requeue", "early") == "1 requeued\n"
        message = client.take(queue)
    assert message.json() == {"description": "x"}
    assert {name: getattr(message.properties, name) for name in properties} == properties
    assert shell.json("rejected", "list") == []
    assert shell.error("rejected", "requeue", "nope") == "there is no rejected message nope"


def test_a_dead_letter_goes_back_to_its_queue(shell: Shell, place: Site) -> None:
    shell("rejected", "drop", "--all")
    with amqp(place.url) as client:
        client.publish("", "llm.obi.work", b"garbage", message_id="dead")
    until(lambda: shell.json("rejected", "list"), "the worker has rejected it")
    [dead] = shell.json("rejected", "list")
    assert (dead["exchange"], dead["routing_key"]) == ("", "llm.obi.work")
    assert dead["why"] == "dead letter of llm.obi.work: rejected"
    assert shell("rejected", "requeue", "--all") == "1 requeued\n"
    until(lambda: shell.json("rejected", "list"), "the worker has rejected it again")
    assert shell("rejected", "drop", "dead") == "1 dropped\n"


# -- when something is away ----------------------------------------------------------------------------------------


def test_a_broker_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    shell = Shell("amqp://guest:guest@127.0.0.1:1/", tmp_path)
    for arguments in (["task", "list"], ["rejected", "list"], ["task", "submit", "x"], ["report"]):
        assert shell.error(*arguments).startswith("RabbitMQ at 127.0.0.1:1 cannot be reached")


def test_no_broker_at_all_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    shell = Shell("", tmp_path)
    del shell.environment["FLUFFLE_AMQP_URL"]
    assert shell.error("task", "list") == (
        "no RabbitMQ is configured: start a private one with `fluffle broker start`, or set FLUFFLE_AMQP_URL"
    )


def test_no_coordinator_is_one_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    with private_node(tmp_path) as node:
        if node.node is None:
            pytest.skip("the broker may have a coordinator")
        shell = Shell(node.url, tmp_path)
        said = shell.error("task", "submit", "x", "--id", "early")
        assert said == (
            "no coordinator answered within 10 s. Task early is in RabbitMQ and will be done when a coordinator comes: "
            "start one with `fluffle coordinator`"
        )
